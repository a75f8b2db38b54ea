"""What all plots share: figures, colours, pictures. Needs matplotlib."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apex.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "MARKERS", "Plot", "finish", "in_lines", "new_figure", "readable", "style"]

# Okabe and Ito's colours, which most colour-blind people can tell apart, then others for more.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
    *("#999999", "#7F4F24", "#6A3D9A", "#A6CE39", "#FB6A6A"),
)
MARKERS = ("o", "s", "^", "D", "v")
_DPI = 150
_LABEL_LENGTH = 36
_FEW_DECADES = 3
_GRID = "#dddddd"


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


@contextmanager
def style() -> Iterator[None]:
    """While it lasts, figures can be drawn. Raises UsageError without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        raise UsageError(
            "The plots need matplotlib.", "pip install 'apex-quant[report]' brings it"
        ) from None
    matplotlib.use("Agg")
    with matplotlib.rc_context({"font.size": 9, "axes.grid": True, "grid.color": _GRID}):
        yield


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
    """Give a logarithmic axis numbers that can be read, also within one power of ten.

    To be called when everything is drawn: a long axis has room for the powers of ten alone.
    """
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    low, high = sorted(axis.get_view_interval())
    is_long = low > 0 and math.log10(high / low) > _FEW_DECADES
    axis.set_major_locator(LogLocator(subs=(1.0,) if is_long else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter("")


def in_lines(label: str) -> str:
    """A long name in lines, so that it leaves room for the plot."""
    return "\n".join(
        part for line in label.split("\n") for part in textwrap.wrap(line, _LABEL_LENGTH)
    )


def finish(figure: Figure, name: str, title: str, caption: str) -> Plot:
    """Turn a figure into a picture."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=_DPI, bbox_inches="tight", metadata={"Software": None})
    figure.clear()
    return Plot(name, title, caption, data.getvalue())
