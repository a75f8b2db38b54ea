"""The tables of a report, as data: the page and the Markdown file show the same ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from apex.reporting.results import Divergence, Model, Number, Results
from apex.reporting.settings import Setting, common_words, words
from apex.reporting.standing import CAUTION, PUBLISHED, standing

__all__ = ["Cell", "Row", "Section", "Table", "by_setting", "sections"]


@dataclass(frozen=True)
class Cell:
    """A text, or a number and its error."""

    text: str
    error: str = ""

    def __str__(self) -> str:
        return f"{self.text} ± {self.error}" if self.error else self.text


@dataclass(frozen=True)
class Row:
    """The first cell is a name."""

    cells: Sequence[Cell]
    is_reference: bool = False


@dataclass(frozen=True)
class Table:
    """Few enough columns for a narrow window; ``title`` may be empty."""

    title: str
    head: Sequence[str]
    rows: Sequence[Row]


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph, tables, and what is said of each name.

    Attributes:
        title, text: the heading and the paragraph, which may be empty.
        tables: in order.
        sentences: (name, what is to be said of it), before the tables.
    """

    title: str
    text: str
    tables: Sequence[Table]
    sentences: Sequence[tuple[str, str]] = ()


class _Measured(Protocol):
    @property
    def model(self) -> Model: ...
    @property
    def setting(self) -> Setting: ...


_Result = TypeVar("_Result", bound=_Measured)


def by_setting(results: Sequence[_Result]) -> Iterator[tuple[str, list[_Result]]]:
    """What can be compared with each other, with the words that set it apart from the rest."""
    settings = list(dict.fromkeys(result.setting for result in results))
    for setting in settings:
        yield (
            words(setting, settings),
            [result for result in results if result.setting == setting],
        )


def sections(results: Results) -> list[Section]:
    """All that there is something to show for."""
    parts = (_quality, _standing, _mtp, _tasks, _harness, _speed)
    found = [part(results) for part in parts]
    return [section for section in found if section.tables or section.sentences]


def _number(number: Number | None, digits: int, factor: float = 1.0) -> Cell:
    if number is None:
        return Cell("")
    if math.isnan(number.value):
        return Cell("not finite")
    error = "" if math.isnan(number.error) else f"{factor * number.error:.{digits}f}"
    return Cell(f"{factor * number.value:.{digits}f}", error)


def _plain(value: float, digits: int) -> Cell:
    return Cell("not finite" if math.isnan(value) else f"{value:.{digits}f}")


def _size(model: Model) -> tuple[Cell, Cell]:
    size = f"{model.bytes / 2**20:.1f} MiB"
    if model.bytes >= 2**30:
        size = f"{model.bytes / 2**30:.2f} GiB"
    return Cell(size), Cell(f"{model.bits_per_weight:.3f}")


def _row(model: Model, *cells: Cell) -> Row:
    name = f"{model.label} (reference)" if model.is_reference else model.label
    return Row((Cell(name), *cells), model.is_reference)


def _shared(results: Sequence[_Measured]) -> str:
    text = common_words([result.setting for result in results]) if results else ""
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _quality(results: Results) -> Section:
    tables = []
    for title, texts in by_setting(results.texts):
        head = ("model", "size", "bpw", "PPL", "KL mean", "same top, %")
        rows = []
        for text in texts:
            far = text.divergence
            kl = _number(far.kl, 6) if far else Cell("")
            top = _number(far.same_top, 2, 100) if far else Cell("")
            rows.append(_row(text.model, *_size(text.model), _number(text.perplexity, 4), kl, top))
        tables.append(Table(title, head, rows))
        compared = [(text.model, text.divergence) for text in texts if text.divergence]
        if compared:
            tables.append(_worst(compared))
    return Section("Quality", _shared(results.texts), tables)


def _worst(compared: Sequence[tuple[Model, Divergence]]) -> Table:
    head = ("model", "KL median", "KL 99.9 %", "KL max", "Δp RMS, %")
    rows = [
        _row(
            model,
            _plain(far.median, 6),
            _plain(far.p99_9, 4),
            _plain(far.maximum, 4),
            _number(far.dp_rms, 3, 100),
        )
        for model, far in compared
    ]
    return Table("From the middle to the worst positions", head, rows)


def _standing(results: Results) -> Section:
    sentences = []
    for title, texts in by_setting(results.texts):
        sentences += [
            (
                f"{text.model.label}, {title}" if title else text.model.label,
                standing(text.divergence.kl.value, text.divergence.same_top.value),
            )
            for text in texts
            if text.divergence
        ]
    published = [Row((Cell(entry.name), Cell(entry.range))) for entry in PUBLISHED]
    table = Table("Published", ("files", "KL mean"), published)
    return Section("Is that good?", CAUTION, [table] if sentences else [], sentences)


def _mtp(results: Results) -> Section:
    tables = []
    for title, texts in by_setting(results.texts):
        rows = [
            _row(text.model, _number(text.mtp_agreement, 3, 100), _number(text.mtp_perplexity, 4))
            for text in texts
            if text.mtp_agreement
        ]
        if rows:
            head = ("model", "agrees with the trunk, %", "PPL of the head")
            tables.append(Table(title, head, rows))
    return Section("Multi-token-prediction head", "", tables)


def _tasks(results: Results) -> Section:
    tables = []
    for name in dict.fromkeys(result.task for result in results.tasks):
        of_this = [result for result in results.tasks if result.task == name]
        for title, tasks in by_setting(of_this):
            rows = [
                _row(
                    task.model,
                    _number(task.accuracy, 2, 100),
                    Cell(f"{task.correct} of {task.tasks}"),
                )
                for task in tasks
            ]
            parts = [name, *([title] if title else []), f"guessing: {100 * tasks[0].chance:.2f} %"]
            tables.append(Table(", ".join(parts), ("model", "accuracy, %", "solved"), rows))
    return Section("Tasks", "", tables)


def _harness(results: Results) -> Section:
    tables = []
    for name in dict.fromkeys(result.task for result in results.harness):
        of_this = [result for result in results.harness if result.task == name]
        for title, here in by_setting(of_this):
            metrics = list(dict.fromkeys(result.metric for result in here))
            rows = []
            for model in dict.fromkeys(result.model for result in here):
                values = {result.metric: result.value for result in here if result.model is model}
                rows.append(_row(model, *(_number(values.get(metric), 4) for metric in metrics)))
            text = ", ".join(part for part in (name, title) if part)
            tables.append(Table(text, ("model", *metrics), rows))
    return Section("Tasks of lm-evaluation-harness", "", tables)


def _speed(results: Results) -> Section:
    tables = []
    for title, speeds in by_setting(results.speeds):
        kinds = list(dict.fromkeys(kind for result in speeds for kind in result.speeds))
        rows = [
            _row(
                result.model,
                *_size(result.model),
                *(_number(result.speeds.get(kind), 2) for kind in kinds),
            )
            for result in speeds
        ]
        tables.append(Table(title, ("model", "size", "bpw", *kinds), rows))
    return Section("Speed, tokens per second", _shared(results.speeds), tables)
