"""The frontier as a picture: predicted KL against size. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from apex.reporting.drawing import COLOURS, Plot, finish, new_figure, readable, style
from apex.reporting.frontier import check_frontier, curve, knees, smallest_kl
from apex.reporting.labels import Label, place_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["frontier_plot"]

_FRONTIER, _KNEE, _MEASURED = COLOURS[0], COLOURS[6], COLOURS[3]
# How each kind of mark is drawn, and what the legend calls it.
_MARKS = {
    "tier": ("s", COLOURS[1], "tiers, predicted"),
    "file type": ("^", COLOURS[2], "file types, predicted"),
}


def frontier_plot(data: Mapping[str, Any]) -> Plot:
    """Draw a frontier as it is written by ``apex fit --curve``.

    Raises UsageError where data is not a frontier, or without matplotlib.
    """
    check_frontier(data)
    with style():
        return finish(_draw(data), "frontier", _title(data), _caption(data))


def _title(data: Mapping[str, Any]) -> str:
    return f"Predicted KL divergence at every size of {data['model']['name']}"


def _caption(data: Mapping[str, Any]) -> str:
    text = (
        "The line is the lowest KL divergence that is predicted for a file of each size; lower and "
        "further left is better. "
    )
    if data["knees"]:
        text += "At a knee the line bends: beyond it a byte gains much less than before. "
    if data["marks"]:
        text += (
            "Tiers and llama.cpp's file types are at their own sizes with the KL divergence that "
            "is predicted for them in the same way. "
        )
    if data["measured"]:
        return text + (
            "The diamonds alone are measured: files that were made and run, with standard errors."
        )
    return text + "All numbers are predicted from the sensitivity of the model's tensors."


def _draw(data: Mapping[str, Any]) -> Figure:
    figure, (axes,) = new_figure(width=8.4, height=5.4)
    bottom = smallest_kl(data)
    unit, name = (2**30, "GiB") if curve(data)[-1][0] >= 2**30 else (2**20, "MiB")
    points = [(size / unit, max(kl, bottom)) for size, kl in curve(data)]
    # The best file of a size is the largest that is not above it, so the line is a stair.
    axes.step(
        *zip(*points, strict=True), where="post", color=_FRONTIER, label="frontier, predicted"
    )
    bends = [(size / unit, max(kl, bottom)) for size, kl in knees(data)]
    if bends:
        axes.plot(*zip(*bends, strict=True), "o", color=_KNEE, fillstyle="none", label="knees")
    labels = [
        label
        for kind, (marker, colour, legend) in _MARKS.items()
        for label in _scatter(axes, data, kind, marker, colour, legend, unit, bottom)
    ]
    labels += _measured(axes, data, unit, bottom)
    axes.set_yscale("log")
    axes.set_ylim(bottom=bottom / 1.3)
    axes.margins(x=0.04)
    readable(axes.yaxis)
    axes.set_xlabel(f"file size, {name}")
    axes.set_ylabel("mean KL divergence, nats")
    axes.legend(loc="upper right", frameon=True, fontsize=8)
    place_labels(figure, axes, labels, _dense(points))
    return figure


def _scatter(
    axes: Axes,
    data: Mapping[str, Any],
    kind: str,
    marker: str,
    colour: str,
    legend: str,
    unit: int,
    bottom: float,
) -> list[Label]:
    """Draw the marks of one kind; their names are left to be placed."""
    marks = [mark for mark in data["marks"] if mark["kind"] == kind]
    labels = [
        Label(_plain(mark["name"]), colour, mark["bytes"] / unit, max(mark["kl"], bottom))
        for mark in marks
    ]
    if labels:
        where = [(label.x, label.y) for label in labels]
        axes.plot(*zip(*where, strict=True), marker, color=colour, markersize=5, label=legend)
    return labels


def _measured(axes: Axes, data: Mapping[str, Any], unit: int, bottom: float) -> list[Label]:
    """Draw what was measured; a name that a mark of the same size has is not written twice."""
    named = {(mark["name"], mark["bytes"]) for mark in data["marks"]}
    labels = []
    for number, file in enumerate(data["measured"]):
        x, y = file["bytes"] / unit, max(file["kl"], bottom)
        axes.errorbar(
            x,
            y,
            file["error"],
            fmt="D",
            fillstyle="none",
            color=_MEASURED,
            markersize=5,
            capsize=3,
            label="" if number else "files, measured",
        )
        is_named = (file["name"], file["bytes"]) in named
        labels.append(Label("" if is_named else _plain(file["name"]), _MEASURED, x, y))
    return labels


def _plain(name: str) -> str:
    """A name that matplotlib does not take for a formula."""
    return name.replace("$", r"\$")


def _dense(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A stair with so many points that no label fits between two of them."""
    import numpy as np

    x = np.array([point[0] for point in points])
    y = np.array([point[1] for point in points])
    wanted = np.linspace(x[0], x[-1], 400)
    here = np.searchsorted(x, wanted, side="right") - 1
    return [*points, *zip(wanted.tolist(), y[here].tolist(), strict=True)]
