"""The picture of a frontier, and labels that leave each other room."""

from __future__ import annotations

import io
import itertools
from typing import Any

import pytest
from matplotlib import image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from support.frontiers import frontier

import apex.reporting.frontier_png
from apex.errors import UsageError
from apex.reporting import frontier_plot
from apex.reporting.labels import Label, place_labels

DATA = frontier(layers=8)


def drawn(data: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[Axes, str]:
    """The axes before they become a picture, and the caption."""
    seen: list[tuple[Figure, str]] = []

    def keep(figure: Figure, name: str, title: str, caption: str) -> None:
        seen.append((figure, caption))

    monkeypatch.setattr(apex.reporting.frontier_png, "finish", keep)
    frontier_plot(data)
    ((figure, caption),) = seen
    return figure.axes[0], caption


def extents(axes: Axes) -> list[Any]:
    """Of the texts alone, without the lines to their points."""
    axes.figure.draw_without_rendering()  # moves every text to its place
    return [Text.get_window_extent(text) for text in axes.texts if text.get_text()]


def covered(boxes: list[Any]) -> int:
    return sum(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_it_is_a_picture() -> None:
    plot = frontier_plot(DATA)
    pixels = image.imread(io.BytesIO(plot.png))
    assert (pixels[..., :3].reshape(-1, 3) < 0.9).any(axis=1).mean() > 0.01
    assert plot.name == "frontier" and DATA["model"]["name"] in plot.title
    assert "predicted" in plot.caption and "measured" in plot.caption


def test_everything_is_where_the_data_says(monkeypatch: pytest.MonkeyPatch) -> None:
    axes, _ = drawn(DATA, monkeypatch)
    lines = {str(line.get_label()): line.get_xydata().tolist() for line in axes.lines}
    assert axes.get_xlabel() == "file size, MiB" and axes.get_yscale() == "log"
    steps = [[size / 2**20, kl] for _, _, size, kl in DATA["steps"]]
    start = [DATA["start"]["bytes"] / 2**20, DATA["start"]["kl"]]
    assert lines["frontier, predicted"] == [start, *steps]
    assert lines["knees"] == [steps[knee] for knee in DATA["knees"]]
    for kind in ("tier", "file type"):
        assert lines[f"{kind}s, predicted"] == [
            [m["bytes"] / 2**20, m["kl"]] for m in DATA["marks"] if m["kind"] == kind
        ]
    named = {text.get_text() for text in axes.texts} - {""}
    assert named == {mark["name"] for mark in DATA["marks"]}


@pytest.mark.parametrize("seed", range(3))
def test_no_label_is_upon_another(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    axes, _ = drawn(frontier(layers=8, seed=seed), monkeypatch)
    assert len(extents(axes)) == len(DATA["marks"]) and covered(extents(axes)) == 0
    frame = axes.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in extents(axes))


def test_labels_of_points_close_to_each_other() -> None:
    """Twelve points within a few points' space; written straight beside them they collide."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 10), ylim=(0, 10))
    labels = [Label(f"number {n}", "#000000", 5 + n % 4 / 20, 5 + n % 3 / 20) for n in range(12)]
    place_labels(figure, axes, labels, [(0, 0), (10, 10)])
    assert len(extents(axes)) == 12 and covered(extents(axes)) == 0
    lines = [text.arrow_patch for text in axes.texts if isinstance(text, Annotation)]
    assert sum(line is not None for line in lines) > 6
    naive = figure.subplots()
    naive.set(xlim=(0, 10), ylim=(0, 10))
    for label in labels:
        naive.text(label.x, label.y, label.text, fontsize=7.5)
    assert covered(extents(naive)) > 10


def test_a_large_model_without_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    data = frontier(layers=8, width=2048)
    axes, caption = drawn({**data, "marks": [], "measured": [], "knees": []}, monkeypatch)
    assert axes.get_xlabel() == "file size, GiB"
    assert "predicted" in caption and "measured," not in caption and "knee" not in caption


def test_a_loss_of_zero_is_at_the_lower_end(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [*DATA["steps"], [0, 0, DATA["steps"][-1][2] + 2**20, 0.0]]
    axes, _ = drawn({**DATA, "steps": steps}, monkeypatch)
    line = next(line for line in axes.lines if line.get_label() == "frontier, predicted")
    assert line.get_ydata()[-1] == min(step[3] for step in DATA["steps"])


def test_hostile_names_and_what_is_not_a_frontier() -> None:
    marks = [{**DATA["marks"][0], "name": r"$\frac{$ ^_{"}]
    assert frontier_plot({**DATA, "marks": marks}).png
    with pytest.raises(UsageError, match="not a frontier"):
        frontier_plot({})
