"""Plots of results. Needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apex.reporting.drawing import (
    COLOURS,
    MARKERS,
    Plot,
    finish,
    in_lines,
    new_figure,
    readable,
    style,
)
from apex.reporting.maps import draw_map
from apex.reporting.results import Model, Number, Results, TaskResult
from apex.reporting.tables import by_setting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]

# So small a divergence is shown at the left end of a logarithmic axis.
_SMALLEST_KL = 1e-9


@dataclass(frozen=True)
class _Point:
    """A number of one model in one setting; ``setting`` is what sets it apart, or empty."""

    model: Model
    setting: str
    number: Number

    @property
    def label(self) -> str:
        return f"{self.model.label}\n{self.setting}" if self.setting else self.model.label


def draw(results: Results) -> list[Plot]:
    """Draw all that there are numbers for. Raises UsageError without matplotlib."""
    plots = []
    with style():
        for name, title, caption, function in _KINDS:
            figure = function(results)
            if figure is not None:
                plots.append(finish(figure, name, title, caption))
        plots += _maps(results.models)
    return plots


def _maps(models: Sequence[Model]) -> Iterator[Plot]:
    taken: set[str] = set()
    for model in models:
        figure = None if model.is_reference else draw_map(model)
        if figure is None:
            continue
        name = wanted = f"map-{_file_name(model.label)}"
        number = 1
        while name in taken:
            number += 1
            name = f"{wanted}-{number}"
        taken.add(name)
        yield finish(
            figure,
            name,
            f"Map of {model.label}",
            "Every matrix of every layer: its type and, where it was measured, its error relative "
            "to the reference's weights (0 means equal, 1 as far off as zeros).",
        )


def _file_name(label: str) -> str:
    return "".join(char if char.isalnum() or char in "-_." else "-" for char in label)


def _scatter(axes: Axes, points: Sequence[_Point], models: Sequence[Model] = ()) -> None:
    """Models by colour, settings by marker, sizes in the unit that suits them.

    models: all that the legend names, by default those of the points.
    """
    unit, name = (2**20, "MiB")
    if max(point.model.bytes for point in points) >= 2**30:
        unit, name = (2**30, "GiB")
    models = models or list(dict.fromkeys(point.model for point in points))
    settings = list(dict.fromkeys(point.setting for point in points))
    for point in points:
        axes.errorbar(
            point.model.bytes / unit,
            point.number.value,
            point.number.error,
            fmt=MARKERS[settings.index(point.setting) % len(MARKERS)],
            color=COLOURS[models.index(point.model) % len(COLOURS)],
            capsize=3,
        )
    for index, model in enumerate(models):
        marker = "o" if len(settings) == 1 else "_"
        colour = COLOURS[index % len(COLOURS)]
        axes.plot([], [], marker, color=colour, label=in_lines(model.label), markeredgewidth=3)
    for index, setting in enumerate(settings if len(settings) > 1 else ()):
        axes.plot([], [], MARKERS[index % len(MARKERS)], color="#555555", label=in_lines(setting))
    axes.set_xlabel(f"file size, {name}")
    axes.margins(0.08)


def _legend(figure: Figure, axes: Axes) -> None:
    """Names beside the plot: next to the points they would lie on one another."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)


def _compared(results: Results) -> list[tuple[str, list[_Point], list[tuple[float, float]]]]:
    """By setting: points of the mean KL divergence, and 99.9 % and maximum of each."""
    return [
        (
            setting,
            [_Point(t.model, setting, t.divergence.kl) for t in texts if t.divergence],
            [(t.divergence.p99_9, t.divergence.maximum) for t in texts if t.divergence],
        )
        for setting, texts in by_setting(results.texts)
    ]


def _finite(points: Sequence[_Point]) -> list[_Point]:
    return [point for point in points if math.isfinite(point.number.value)]


def _kl_against_size(results: Results) -> Figure | None:
    points = _finite([point for _, here, _ in _compared(results) for point in here])
    if not points:
        return None
    figure, (axes,) = new_figure()
    _scatter(axes, points)
    if min(point.number.value for point in points) > 0:
        axes.set_yscale("log")
        readable(axes.yaxis)
    axes.set_ylabel("mean KL divergence, nats")
    _legend(figure, axes)
    return figure


def _ppl_against_size(results: Results) -> Figure | None:
    panels = []
    for setting, texts in by_setting(results.texts):
        # The errors are of the text and nearly the same for all models; they would hide all else.
        points = [
            _Point(text.model, "", Number(text.perplexity.value, 0))
            for text in texts
            if text.perplexity is not None and math.isfinite(text.perplexity.value)
        ]
        if points:
            panels.append((setting, points))
    if not panels:
        return None
    # Perplexities over different texts or contexts are no more alike than different units.
    figure, all_axes = new_figure(len(panels), height=0.8 + 3.4 * len(panels))
    models = list(dict.fromkeys(point.model for _, points in panels for point in points))
    for axes, (setting, points) in zip(all_axes, panels, strict=True):
        for point in points:
            if point.model.is_reference:
                axes.axhline(point.number.value, color="#555555", linestyle="--", linewidth=1)
        _scatter(axes, points, models)
        axes.set_title(setting)
        axes.set_ylabel("perplexity")
    _legend(figure, all_axes[0])
    return figure


def _speed_against_size(results: Results) -> Figure | None:
    speeds = [
        (kind, _Point(result.model, setting, number))
        for setting, here in by_setting(results.speeds)
        for result in here
        for kind, number in result.speeds.items()
        if math.isfinite(number.value)
    ]
    kinds = list(dict.fromkeys(kind for kind, _ in speeds))
    if not kinds:
        return None
    figure, panels = new_figure(1, len(kinds), width=5.0 * len(kinds))
    for axes, kind in zip(panels, kinds, strict=True):
        _scatter(axes, [point for other, point in speeds if other == kind])
        what = "prompt processing" if kind.startswith("pp") else "token generation"
        axes.set_title(f"{what} ({kind})")
        axes.set_ylabel("tokens per second")
        axes.set_ylim(0, 1.1 * max(point.number.value for other, point in speeds if other == kind))
    _legend(figure, panels[0])
    return figure


def _kl_bars(results: Results) -> Figure | None:
    bars = [
        (point, (point.number.value, *worst))
        for _, points, worsts in _compared(results)
        for point, worst in zip(points, worsts, strict=True)
    ]
    bars = [(point, values) for point, values in bars if all(map(math.isfinite, values))]
    if not bars:
        return None
    lines = sum(1 + (1 if point.setting else 0) for point, _ in bars)
    figure, (axes,) = new_figure(width=8, height=0.9 + 0.5 * max(len(bars), 0.6 * lines))
    thickness = 0.26
    for kind, (name, colour) in enumerate(
        zip(("mean", "99.9 %", "maximum"), COLOURS, strict=False)
    ):
        values = [max(values[kind], _SMALLEST_KL) for _, values in bars]
        places = [index + (kind - 1) * thickness for index in range(len(bars))]
        drawn = axes.barh(places, values, thickness, label=name, color=colour)
        axes.bar_label(drawn, [f"{value:.4g}" for value in values], padding=3, fontsize=7)
    axes.set_yticks(range(len(bars)), [in_lines(point.label) for point, _ in bars])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.15)
    readable(axes.xaxis)
    axes.set_xlabel("KL divergence, nats")
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def _task_bars(results: Results) -> Figure | None:
    tasks = [
        (result.task, _Point(result.model, setting, result.accuracy), result)
        for task in dict.fromkeys(result.task for result in results.tasks)
        for setting, here in by_setting([r for r in results.tasks if r.task == task])
        for result in here
    ]
    if not tasks:
        return None
    names = list(dict.fromkeys(name for name, _, _ in tasks))
    labels = list(dict.fromkeys(point.label for _, point, _ in tasks))
    lines = sum(1.5 + in_lines(label).count("\n") for label in labels)
    figure, (axes,) = new_figure(width=4.0 + 1.9 * len(names), height=max(4.2, 0.16 * lines))
    width = 0.8 / len(labels)
    for index, label in enumerate(labels):
        here = [
            (names.index(name), result) for name, point, result in tasks if point.label == label
        ]
        axes.bar(
            [place + (index - (len(labels) - 1) / 2) * width for place, _ in here],
            [100 * result.accuracy.value for _, result in here],
            width,
            yerr=[100 * result.accuracy.error for _, result in here],
            error_kw={"elinewidth": 1, "capsize": 2},
            label=in_lines(label),
            color=COLOURS[index % len(COLOURS)],
            alpha=1.0 if index < len(COLOURS) else 0.6,
        )
    _mark_guessing(axes, names, [result for _, _, result in tasks])
    axes.set_xticks(range(len(names)), [name.replace(" (", "\n(") for name in names])
    axes.set_ylabel("accuracy, %")
    axes.grid(visible=False, axis="x")
    _legend(figure, axes)
    return figure


def _mark_guessing(axes: Axes, names: Sequence[str], results: Sequence[TaskResult]) -> None:
    for place, name in enumerate(names):
        chance = next(result.chance for result in results if result.task == name)
        ends = (place - 0.45, place + 0.45)
        axes.plot(ends, (100 * chance, 100 * chance), color="#555555", linestyle=":")
    axes.plot([], [], color="#555555", linestyle=":", label="guessing")


_KINDS: tuple[tuple[str, str, str, Callable[[Results], Figure | None]], ...] = (
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
