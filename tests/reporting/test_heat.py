"""The heat map of sensitivities."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib import image
from matplotlib.figure import Figure

import apex.reporting.heat
from apex.reporting import HeatCell, heat_map

CELLS = [
    HeatCell("embedding", None, 0.5, 0.1),
    HeatCell("down experts", 0, 2.0, 0.1),
    HeatCell("down experts", 2, 0.02, 0.01),  # just significant
    HeatCell("value $x", 1, 0.019, 0.01),  # just not
    HeatCell("value $x", 2, -0.5, 0.1),
]


def drawn(cells: list[HeatCell], monkeypatch: pytest.MonkeyPatch) -> tuple[Figure, str]:
    seen: list[tuple[Figure, str]] = []
    monkeypatch.setattr(
        apex.reporting.heat, "finish", lambda figure, name, title, text: seen.append((figure, text))
    )
    heat_map(cells)
    return seen[0]


def test_it_is_a_picture() -> None:
    plot = heat_map(CELLS)
    pixels = image.imread(io.BytesIO(plot.png))
    assert plot.name == "sensitivity" and min(pixels.shape[:2]) > 150
    assert "two standard errors above zero" in plot.caption and "no layer" in plot.caption


def test_cells_are_where_they_belong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A column for what has no layer, an empty one, then the layers; the scale is logarithmic."""
    figure, _ = drawn(CELLS, monkeypatch)
    axes = figure.axes[0]
    nan = np.nan
    wanted = [[0.5, nan, nan, nan, nan], [nan, nan, 2.0, nan, 0.02], [nan, nan, nan, 0.02, 0.02]]
    np.testing.assert_array_equal(axes.images[0].get_array().filled(nan), wanted)
    assert (axes.images[0].norm.vmin, axes.images[0].norm.vmax) == (0.02, 2.0)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "2", "-"]
    assert list(axes.get_xticks()) == [2, 3, 4, 0]
    hatched = {patch.get_xy() for patch in axes.patches if patch.get_hatch()}
    assert hatched == {(2.5, 1.5), (3.5, 1.5)}


@pytest.mark.parametrize(
    "cell", [HeatCell("a", 3, 1.0, 0.0), HeatCell("a", 3, 0.0, 0.0), HeatCell("a", None, -1.0, 1.0)]
)
def test_one_cell(cell: HeatCell, monkeypatch: pytest.MonkeyPatch) -> None:
    figure, caption = drawn([cell], monkeypatch)
    is_hatched = any(patch.get_hatch() for patch in figure.axes[0].patches)
    assert is_hatched == ("Hatched" in caption) == (cell.value < 1)
    assert (cell.layer is None) == ("no layer" in caption)
