"""Labels beside points, none upon another where that can be avoided. Needs matplotlib."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Label", "place_labels"]

# Where a label may be, seen from its point: distances in points, and directions.
_DISTANCES = (6, 12, 20, 30, 42, 56)
_DIRECTIONS = 16
_FAR = 10  # a label that is further off gets a line to its point
# What it costs, in units of the labels' own area, to cover another label or to leave the plot; to
# cover a point of the curve; to be a point further off.
_COVERS, _CROSSES, _DISTANCE = 100.0, 2.0, 0.05
_ROUNDS = 3


@dataclass(frozen=True)
class Label:
    """A text for a point.

    Attributes:
        text, colour: what is written, and how.
        x, y: the point, in the units of the axes.
    """

    text: str
    colour: str
    x: float
    y: float


@dataclass(frozen=True)
class _Box:
    """A rectangle, in points."""

    left: float
    bottom: float
    right: float
    top: float

    @property
    def area(self) -> float:
        return max(self.right - self.left, 0.0) * max(self.top - self.bottom, 0.0)

    def common(self, other: _Box) -> float:
        """The area of what lies in both."""
        return _Box(
            max(self.left, other.left),
            max(self.bottom, other.bottom),
            min(self.right, other.right),
            min(self.top, other.top),
        ).area


@dataclass(frozen=True)
class _Place:
    box: _Box
    offset: tuple[float, float]
    distance: float


def place_labels(
    figure: Figure,
    axes: Axes,
    labels: Sequence[Label],
    curve: Sequence[tuple[float, float]],
    *,
    size: float = 7.5,
) -> None:
    """Write the labels. To be called when everything else is drawn and the limits are final.

    curve: points that the labels should not cover, in the units of the axes. size: of the letters,
    in points.
    """
    figure.draw_without_rendering()  # lays the axes out
    per_point = 72 / figure.dpi
    middles = [axes.transData.transform((label.x, label.y)) * per_point for label in labels]
    frame = axes.get_window_extent()
    inside = _Box(*(per_point * edge for edge in (frame.x0, frame.y0, frame.x1, frame.y1)))
    line = axes.transData.transform(list(curve)) * per_point
    points = [_Box(x - 3, y - 3, x + 3, y + 3) for x, y in middles]
    candidates = [
        _candidates(middle, _size(axes, label, size))
        for middle, label in zip(middles, labels, strict=True)
    ]
    costs = [[_cost(place, inside, line, points) for place in places] for places in candidates]
    chosen = [places[0] for places in candidates]
    taken: list[int] = []
    for _, index in itertools.product(range(_ROUNDS), range(len(labels))):
        others = [chosen[other].box for other in set(taken) - {index}]
        chosen[index] = min(
            zip(costs[index], candidates[index], strict=True),
            key=lambda pair: pair[0] + _COVERS * _covered(pair[1].box, others),
        )[1]
        taken.append(index)
    for label, place in zip(labels, chosen, strict=True):
        _write(axes, label, place, size)


def _size(axes: Axes, label: Label, size: float) -> tuple[float, float]:
    """Width and height of a text in points, with a little space around it."""
    text = axes.text(label.x, label.y, label.text, fontsize=size)
    extent = text.get_window_extent()
    text.remove()
    per_point = 72 / axes.figure.dpi
    return extent.width * per_point + 3, extent.height * per_point + 1


def _candidates(middle: Any, size: tuple[float, float]) -> list[_Place]:
    width, height = size
    places = []
    for distance, turn in itertools.product(_DISTANCES, range(_DIRECTIONS)):
        angle = 2 * math.pi * turn / _DIRECTIONS
        # The box touches a circle around the point from outside.
        dx = math.cos(angle) * (distance + width / 2)
        dy = math.sin(angle) * (distance + height / 2)
        x, y = middle[0] + dx, middle[1] + dy
        box = _Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        places.append(_Place(box, (dx, dy), distance))
    return places


def _cost(place: _Place, inside: _Box, line: Any, points: Sequence[_Box]) -> float:
    box = place.box
    outside = 1 - box.common(inside) / box.area
    is_in = (box.left < line[:, 0]) & (line[:, 0] < box.right)
    is_in &= (box.bottom < line[:, 1]) & (line[:, 1] < box.top)
    return (
        _COVERS * (outside + _covered(box, points))
        + (_CROSSES if is_in.any() else 0.0)
        + _DISTANCE * place.distance
    )


def _covered(box: _Box, others: Sequence[_Box]) -> float:
    return sum(box.common(other) for other in others) / box.area


def _write(axes: Axes, label: Label, place: _Place, size: float) -> None:
    is_far = place.distance > _FAR
    text = axes.annotate(
        label.text,
        (label.x, label.y),
        xytext=place.offset,
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=size,
        color=label.colour,
        arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "shrinkB": 3}
        if is_far
        else None,
    )
    text.set_in_layout(False)
