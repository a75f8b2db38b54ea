"""Plots of results, as PNG files. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apex.errors import UsageError
from apex.reporting.results import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = ["Plot", "draw"]

# Okabe and Ito's colours, which most colour-blind people can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v")
_GRID = "#dddddd"
_DPI = 150


class Plot:
    """A PNG file and the sentence that goes with it."""

    def __init__(self, path: Path, title: str, caption: str) -> None:
        self.path = path
        self.title = title
        self.caption = caption


def draw(records: Sequence[Record], folder: Path) -> list[Plot]:
    """Draw all that the records have numbers for, into a folder. Raises UsageError."""
    try:
        import matplotlib
    except ImportError:
        raise UsageError(
            "The plots need matplotlib.", "pip install 'apex-quant[report]' brings it"
        ) from None
    matplotlib.use("Agg")
    plots = []
    with matplotlib.rc_context({"font.size": 9, "axes.grid": True, "grid.color": _GRID}):
        for name, title, caption, function in _KINDS:
            figure = function(records)
            if figure is not None:
                plots.append(_save(figure, folder / f"{name}.png", title, caption))
        for record in records:
            figure = None if record.is_reference else _map(record)
            if figure is not None:
                plots.append(
                    _save(
                        figure,
                        folder / f"map-{_file_name(record.label)}.png",
                        f"Map of {record.label}",
                        "Every matrix of every layer: its type and, where it was measured, its "
                        "error relative to the reference's weights (0 is equal, 1 is as far off as "
                        "zeros).",
                    )
                )
    return plots


def _save(figure: Figure, path: Path, title: str, caption: str) -> Plot:
    figure.savefig(path, dpi=_DPI, bbox_inches="tight", metadata={"Software": None})
    figure.clear()
    return Plot(path, title, caption)


def _file_name(label: str) -> str:
    return "".join(char if char.isalnum() or char in "-_." else "-" for char in label)


def _figure(columns: int = 1, width: float = 7.0, height: float = 4.2) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.set_axisbelow(True)
    return figure, axes


def _sizes(records: Sequence[Record]) -> tuple[list[float], str]:
    """File sizes in the unit that suits them."""
    unit, name = (2**30, "GiB") if max(r.bytes for r in records) >= 2**30 else (2**20, "MiB")
    return [record.bytes / unit for record in records], f"file size, {name}"


def _scatter(
    axes: Axes, records: Sequence[Record], value: Callable[[Record], dict[str, Any]]
) -> None:
    """A point with an error bar for each record."""
    sizes, label = _sizes(records)
    for index, (record, size) in enumerate(zip(records, sizes, strict=True)):
        number = value(record)
        axes.errorbar(
            size,
            number["value"],
            number["error"],
            fmt=_MARKERS[index // len(_COLOURS) % len(_MARKERS)],
            color=_COLOURS[index % len(_COLOURS)],
            capsize=3,
            label=record.label,
        )
    axes.set_xlabel(label)
    axes.margins(0.08)


def _legend(figure: Figure, axes: Axes) -> None:
    """Names beside the plot: next to the points they would lie on one another."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)


def _readable(axis: Axis) -> None:
    """Give a logarithmic axis numbers that can be read, also within one power of ten."""
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter("")


def _kl_against_size(records: Sequence[Record]) -> Figure | None:
    measured = [record for record in records if record.divergence]
    if not measured:
        return None
    figure, (axes,) = _figure()
    _scatter(axes, measured, lambda record: (record.divergence or {})["kl"])
    if min((record.divergence or {})["kl"]["value"] for record in measured) > 0:
        axes.set_yscale("log")
        _readable(axes.yaxis)
    axes.set_ylabel("mean KL divergence, nats")
    _legend(figure, axes)
    return figure


def _ppl_against_size(records: Sequence[Record]) -> Figure | None:
    measured = [record for record in records if record.perplexity]
    if not measured:
        return None
    figure, (axes,) = _figure()
    reference = next((record for record in measured if record.is_reference), None)
    if reference is not None:
        value = (reference.perplexity or {})["value"]
        axes.axhline(value, color="#888888", linestyle="--", linewidth=1)
    # The errors are of the text and nearly the same for all models; they would hide all else.
    _scatter(
        axes,
        measured,
        lambda record: {"value": (record.perplexity or {})["value"], "error": 0},
    )
    axes.set_ylabel("perplexity")
    _legend(figure, axes)
    return figure


def _speed_against_size(records: Sequence[Record]) -> Figure | None:
    measured = [record for record in records if record.speed]
    if not measured:
        return None
    figure, both = _figure(2, width=10)
    for axes, prefix, title in zip(
        both, ("pp", "tg"), ("prompt processing", "token generation"), strict=True
    ):
        key = next(name for name in measured[0].speed or {} if name.startswith(prefix))
        _scatter(axes, [r for r in measured if key in (r.speed or {})], _speed_of(key))
        axes.set_title(f"{title} ({key})")
        axes.set_ylabel("tokens per second")
        axes.set_ylim(bottom=0)
    _legend(figure, both[0])
    return figure


def _speed_of(key: str) -> Callable[[Record], dict[str, Any]]:
    return lambda record: (record.speed or {})[key]


def _kl_bars(records: Sequence[Record]) -> Figure | None:
    measured = [record for record in records if record.divergence]
    if not measured:
        return None
    kinds = (("mean", "value"), ("99.9 %", "p99.9"), ("maximum", "maximum"))
    figure, (axes,) = _figure(width=8, height=0.9 + 0.55 * len(measured))
    thickness = 0.26
    for offset, ((name, key), colour) in enumerate(zip(kinds, _COLOURS, strict=False)):
        values = [max((record.divergence or {})["kl"][key], 1e-9) for record in measured]
        places = [index + (offset - 1) * thickness for index in range(len(measured))]
        bars = axes.barh(places, values, thickness, label=name, color=colour)
        axes.bar_label(bars, [f"{value:.4g}" for value in values], padding=3, fontsize=7)
    axes.set_yticks(range(len(measured)), [record.label for record in measured])
    axes.invert_yaxis()
    axes.set_xscale("log")
    _readable(axes.xaxis)
    axes.margins(x=0.15)
    axes.set_xlabel("KL divergence, nats")
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def _task_bars(records: Sequence[Record]) -> Figure | None:
    measured = [record for record in records if record.tasks]
    if not measured:
        return None
    names = list(dict.fromkeys(key for record in measured for key in record.tasks))
    figure, (axes,) = _figure(width=max(6.0, 1.2 + 1.9 * len(names)))
    width = 0.8 / len(measured)
    for index, record in enumerate(measured):
        here = [(place, record.tasks[n]) for place, n in enumerate(names) if n in record.tasks]
        axes.bar(
            [place + (index - (len(measured) - 1) / 2) * width for place, _ in here],
            [100 * task["accuracy"] for _, task in here],
            width,
            yerr=[100 * task["error"] for _, task in here],
            error_kw={"elinewidth": 1, "capsize": 2},
            label=record.label,
            color=_COLOURS[index % len(_COLOURS)],
            alpha=1.0 if index < len(_COLOURS) else 0.6,
        )
    for place, name in enumerate(names):
        chance = next(record.tasks[name]["chance"] for record in measured if name in record.tasks)
        ends = (place - 0.45, place + 0.45)
        axes.plot(ends, (100 * chance, 100 * chance), color="#555555", linestyle=":")
    axes.plot([], [], color="#555555", linestyle=":", label="guessing")
    axes.set_xticks(range(len(names)), [f"{kind}\n{name}" for kind, name in names])
    axes.set_ylabel("accuracy, %")
    axes.grid(visible=False, axis="x")
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    return figure


_KINDS: tuple[tuple[str, str, str, Callable[[Sequence[Record]], Figure | None]], ...] = (
    (
        "kl-size",
        "KL divergence against size",
        "How far each file's predictions are from the reference's, on average over the text. Lower "
        "and further left is better; the bars are standard errors.",
        _kl_against_size,
    ),
    (
        "kl-bars",
        "KL divergence: mean, 99.9 % and maximum",
        "The mean says how a file does on the whole, the others how bad it is where it is worst.",
        _kl_bars,
    ),
    (
        "ppl-size",
        "Perplexity against size",
        "How well each file predicts the text; lower is better, the dashed line is the reference. "
        "Small differences in perplexity say less than the KL divergence: errors may cancel.",
        _ppl_against_size,
    ),
    (
        "tasks",
        "Accuracy per task",
        "Share of the tasks that were solved, with standard errors; the dotted line is what "
        "guessing gets. Differences within the bars mean nothing.",
        _task_bars,
    ),
    (
        "speed-size",
        "Speed against size",
        "Tokens per second on the machine that the page names; the bars are standard deviations "
        "over the repetitions.",
        _speed_against_size,
    ),
)


def _map(record: Record) -> Figure | None:
    """Layers from left to right, matrices from top to bottom, grouped by role."""
    cells = [tensor for tensor in record.tensors if tensor["layer"] is not None]
    if not cells:
        return None
    import numpy as np
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Patch

    rows = _map_rows(cells)
    places = {row: index for index, row in enumerate(rows)}
    layers = 1 + max(tensor["layer"] for tensor in cells)
    types = _types_by_bits(cells)
    kinds = np.full((len(rows), layers), np.nan)
    errors = np.full((len(rows), layers), np.nan)
    for tensor in cells:
        where = places[_map_row(tensor)], tensor["layer"]
        kinds[where] = types.index(tensor["type"])
        if tensor["rmse"]:
            errors[where] = tensor["rmse"]
    has_errors = bool(np.isfinite(errors).any())
    panels = 2 if has_errors else 1
    figure, axes = _figure(
        panels, width=(2.6 + 0.16 * layers + 2.2) * panels, height=1.4 + 0.21 * len(rows)
    )
    colours = _type_colours(len(types))
    axes[0].imshow(
        kinds, aspect="auto", cmap=colours, vmin=-0.5, vmax=len(types) - 0.5, interpolation="none"
    )
    axes[0].set_title("type")
    axes[0].legend(
        handles=[Patch(color=colours(index), label=name) for index, name in enumerate(types)],
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        fontsize=8,
    )
    if has_errors:
        image = axes[1].imshow(
            errors, aspect="auto", cmap="viridis_r", norm=LogNorm(), interpolation="none"
        )
        axes[1].set_title("error, relative")
        figure.colorbar(image, ax=axes[1])
    for panel in axes:
        panel.set_yticks(range(len(rows)), _row_labels(rows), fontsize=7)
        panel.set_xlabel("layer")
        panel.grid(visible=False)
        _separate_roles(panel, [role for role, _ in rows])
    return figure


def _map_row(tensor: dict[str, Any]) -> tuple[str, str]:
    name = tensor["name"].split(".", 2)[-1].removesuffix(".weight")
    return tensor["role"], name


def _map_rows(cells: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """(role, matrix), roles in the order in which the model has them."""
    roles = list(dict.fromkeys(tensor["role"] for tensor in cells))
    found = {_map_row(tensor) for tensor in cells}
    return sorted(found, key=lambda row: (roles.index(row[0]), row[1]))


def _row_labels(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Names of matrices; the first of a role has the role's name before it."""
    return [
        name if index and rows[index - 1][0] == role else f"{role}:  {name}"
        for index, (role, name) in enumerate(rows)
    ]


def _types_by_bits(cells: Sequence[dict[str, Any]]) -> list[str]:
    bits = {tensor["type"]: tensor["bits_per_weight"] for tensor in cells}
    return sorted(bits, key=lambda name: (bits[name], name))


def _type_colours(count: int) -> Any:
    """From few bits, warm, to many, cold."""
    from matplotlib import colormaps

    return colormaps["Spectral"].resampled(max(count, 2))


def _separate_roles(axes: Axes, roles: Sequence[str]) -> None:
    for index in range(1, len(roles)):
        if roles[index] != roles[index - 1]:
            axes.axhline(index - 0.5, color="#333333", linewidth=0.8)
