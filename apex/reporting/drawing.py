"""What all plots share: figures, colours, pictures. Needs matplotlib."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "MARKERS", "Plot", "finish", "new_figure", "readable"]

# Okabe and Ito's colours, which most colour-blind people can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v")
_DPI = 150


@dataclass(frozen=True)
class Plot:
    """A picture and what goes with it.

    Attributes:
        name: of the file, without an ending.
        title, caption: a heading, and a sentence or two for a reader.
        png: the picture.
    """

    name: str
    title: str
    caption: str
    png: bytes


def new_figure(
    rows: int = 1, columns: int = 1, *, width: float = 7.0, height: float = 4.2
) -> tuple[Figure, Any]:
    """A figure and its axes, one after the other. width, height: in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axisbelow(True)
    return figure, axes


def readable(axis: Axis) -> None:
    """Give a logarithmic axis numbers that can be read, also within one power of ten."""
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter("")


def finish(figure: Figure, name: str, title: str, caption: str) -> Plot:
    """Turn a figure into a picture."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=_DPI, bbox_inches="tight", metadata={"Software": None})
    figure.clear()
    return Plot(name, title, caption, data.getvalue())
