"""What each kind of tensor costs in each layer, as a heat map. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apex.reporting.drawing import Plot, finish, new_figure, readable, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["HeatCell", "heat_map"]

_TITLE = "Sensitivity per layer and kind"
_CAPTION = (
    "What an error in the tensors of one kind in one layer costs: KL divergence in nats per unit "
    "of relative squared error. Dark cells deserve more bits."
)
_UNCERTAIN = (
    " Hatched cells are less than two standard errors above zero: they may cost nothing at all."
)
_NO_LAYER = " The column - holds what lies in no layer."
# How many standard errors a value must be above zero.
_SIGNIFICANT = 2
# So many numbers fit below the cells.
_MOST_NUMBERS = 24


@dataclass(frozen=True)
class HeatCell:
    """A group of tensors; each kind has at most one in a layer.

    Attributes:
        kind: what the tensors do, such as "down experts".
        layer: theirs, or None.
        value: sensitivity, in nats per unit of relative squared error.
        error: its standard error.
    """

    kind: str
    layer: int | None
    value: float
    error: float

    @property
    def is_significant(self) -> bool:
        """Whether the value is at least two standard errors above zero."""
        return self.value > 0 and self.value >= _SIGNIFICANT * self.error


def heat_map(cells: Sequence[HeatCell]) -> Plot:
    """Draw layers from left to right, kinds from top to bottom in the order in which they come.

    cells: at least one. Raises UsageError without matplotlib.
    """
    caption = _CAPTION
    if any(not cell.is_significant for cell in cells):
        caption += _UNCERTAIN
    if any(cell.layer is None for cell in cells):
        caption += _NO_LAYER
    with style():
        return finish(_draw(cells), "sensitivity", _TITLE, caption)


def _draw(cells: Sequence[HeatCell]) -> Figure:
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    kinds = list(dict.fromkeys(cell.kind for cell in cells))
    columns = _columns(cells)
    values = np.full((len(kinds), 1 + max(columns.values())), np.nan)
    low, high = _range(cells)
    for cell in cells:
        values[kinds.index(cell.kind), columns[cell.layer]] = max(cell.value, low)
    figure, (axes,) = new_figure(
        width=3.6 + 0.2 * max(values.shape[1], 8), height=1.5 + 0.26 * max(len(kinds), 4)
    )
    image = axes.imshow(
        values,
        aspect="auto",
        cmap=colormaps["viridis_r"],
        norm=LogNorm(low, high),
        interpolation="none",
    )
    for cell in cells:
        if not cell.is_significant:
            _hatch(axes, columns[cell.layer], kinds.index(cell.kind))
    _name(axes, kinds, columns)
    scale = figure.colorbar(image, ax=axes)
    scale.set_label("nats per unit of error")
    readable(scale.ax.yaxis)
    return figure


def _columns(cells: Sequence[HeatCell]) -> dict[int | None, int]:
    """By layer, its column; what lies in no layer comes first, set off by an empty column."""
    layers = [cell.layer for cell in cells if cell.layer is not None]
    columns: dict[int | None, int] = {}
    if any(cell.layer is None for cell in cells):
        columns[None] = 0
    first = 2 if columns else 0
    if layers:
        columns |= {layer: first + layer for layer in range(max(layers) + 1)}
    return columns


def _range(cells: Sequence[HeatCell]) -> tuple[float, float]:
    """Of the colours: what is uncertain does not stretch it."""
    values = [cell.value for cell in cells if cell.is_significant]
    values = values or [cell.value for cell in cells if cell.value > 0] or [1.0]
    low, high = min(values), max(values)
    return (low, high) if low < high else (low / 2, high * 2)


def _hatch(axes: Axes, column: int, row: int) -> None:
    """Grey over the colour, and strokes: it is seen without colours too."""
    from matplotlib.patches import Rectangle

    place: dict[str, Any] = {"xy": (column - 0.5, row - 0.5), "width": 1, "height": 1}
    axes.add_patch(Rectangle(**place, facecolor="#ffffff", alpha=0.6, linewidth=0))
    axes.add_patch(
        Rectangle(**place, facecolor="none", edgecolor="#777777", hatch="////", linewidth=0)
    )


def _name(axes: Axes, kinds: Sequence[str], columns: dict[int | None, int]) -> None:
    layers = [layer for layer in columns if layer is not None]
    every = next(
        (n for n in (1, 2, 5, 10, 20) if len(layers) <= n * _MOST_NUMBERS), len(layers) or 1
    )
    named: list[int | None] = [layer for layer in layers if layer % every == 0]
    named += [None] if None in columns else []
    axes.set_xticks(
        [columns[layer] for layer in named],
        ["-" if layer is None else str(layer) for layer in named],
        fontsize=8,
    )
    axes.set_yticks(range(len(kinds)), [kind.replace("$", r"\$") for kind in kinds], fontsize=8)
    axes.set_xlabel("layer")
    axes.grid(visible=False)
