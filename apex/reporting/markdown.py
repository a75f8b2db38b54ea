"""The report as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from urllib.parse import quote

from apex.reporting.drawing import Plot
from apex.reporting.results import Model, Number, Results
from apex.reporting.settings import Setting
from apex.reporting.tables import Section, Table

__all__ = ["render_csv", "render_markdown"]

# What Markdown would take for markup, in a name or a note.
_MARKUP = re.compile(r"([\\`*_\[\]<>|#])")


def render_markdown(
    title: str,
    summary: str,
    notes: Sequence[str],
    parts: Sequence[Section],
    plots: Sequence[Plot],
) -> str:
    """The same tables as on the page, and the plots, which lie beside the file."""
    lines = [f"# {_escaped(title)}", "", _escaped(summary)]
    for note in notes:
        lines += ["", f"> {_escaped(note)}"]
    for part in parts:
        lines += ["", f"## {_escaped(part.title)}"]
        if part.text:
            lines += ["", _escaped(part.text)]
        if part.sentences:
            lines.append("")
            lines += [f"- **{_escaped(name)}**: {_escaped(text)}" for name, text in part.sentences]
        for table in part.tables:
            lines += ["", *_table(table)]
    for plot in plots:
        picture = f"![{_escaped(plot.title)}]({quote(plot.name)}.png)"
        lines += ["", f"## {_escaped(plot.title)}", "", picture, "", _escaped(plot.caption)]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def _table(table: Table) -> Iterator[str]:
    if table.title:
        yield f"**{_escaped(table.title)}**"
        yield ""
    yield f"| {' | '.join(map(_escaped, table.head))} |"
    yield f"|---|{'---:|' * (len(table.head) - 1)}"
    for row in table.rows:
        yield f"| {' | '.join(_escaped(str(cell)) for cell in row.cells)} |"


_Fields = dict[str, str | int | float]


def render_csv(results: Results) -> str:
    """One line per measurement of a model in a setting; full precision, shares of 1."""
    lines = list(_lines(results))
    head = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, head, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _lines(results: Results) -> Iterator[_Fields]:
    for result in results.texts:
        line = _who("text", result.model, result.setting)
        line |= _pair("perplexity", result.perplexity)
        far = result.divergence
        if far is not None:
            line |= _pair("kl_mean", far.kl)
            line |= {"kl_median": far.median, "kl_p99.9": far.p99_9, "kl_maximum": far.maximum}
            line |= _pair("same_top", far.same_top) | _pair("dp_rms", far.dp_rms)
        line |= _pair("mtp_agreement", result.mtp_agreement)
        line |= _pair("mtp_perplexity", result.mtp_perplexity)
        yield line
    for task in results.tasks:
        line = _who(task.task, task.model, task.setting) | _pair("accuracy", task.accuracy)
        yield line | {"correct": task.correct, "tasks": task.tasks, "chance": task.chance}
    for score in results.harness:
        line = _who(score.task, score.model, score.setting)
        yield line | {"metric": score.metric} | _pair("value", score.value)
    for speed in results.speeds:
        line = _who("speed", speed.model, speed.setting)
        for kind, number in speed.speeds.items():
            line |= _pair(f"{kind}_tokens_per_second", number)
        yield line


def _who(measured: str, model: Model, setting: Setting) -> _Fields:
    return {
        "model": model.label,
        "is_reference": int(model.is_reference),
        "bytes": model.bytes,
        "bits_per_weight": model.bits_per_weight,
        "measured": measured,
        **{name: value or "" for name, value in asdict(setting).items()},
    }


def _pair(name: str, number: Number | None) -> _Fields:
    if number is None or math.isnan(number.value):
        return {}
    error = {} if math.isnan(number.error) else {f"{name}_error": number.error}
    return {name: number.value, **error}
