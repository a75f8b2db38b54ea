"""One HTML page with everything in it: tables, plots, settings. It loads nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from apex.reporting.plots import Plot
from apex.reporting.results import Record, Results

__all__ = ["render_page"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff;
       max-width: 80rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: right;
         white-space: nowrap; }
th { background: #f4f4f4; } th:first-child, td:first-child { text-align: left; }
tr.reference td { color: #555; font-style: italic; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; }
figcaption, .caption { color: #555; max-width: 48rem; }
.note { background: #fff6e0; border-left: 4px solid #e69f00; padding: .4rem .8rem; }
dt { font-weight: 600; } dd { margin: 0 0 .5rem 1rem; }
"""

# What the words mean, for a reader who sees them for the first time.
_WORDS = (
    (
        "KL divergence",
        "how far a model's distribution over the next token is from the reference's, in nats; 0 "
        "is the same. The mean is over all scored positions of the text; 99.9 % and maximum are "
        "the worst places.",
    ),
    ("perplexity (PPL)", "how surprised a model is by the text; lower is better."),
    ("same top", "how often both models find the same token the most likely."),
    (
        "Δp",
        "by how much the probability of the token that really follows differs (root mean square).",
    ),
    ("bpw", "bits per weight: the size of all tensors over the number of weights."),
    ("±", "the standard error of a mean; for speeds, the standard deviation over repetitions."),
)


def render_page(results: Results, plots: Sequence[Plot]) -> str:
    """The page as text."""
    records = results.records
    parts = [
        "<h1>Evaluation</h1>",
        f'<p class="caption">{escape(_summary(results))}</p>',
        *(f'<p class="note">{escape(note)}</p>' for note in results.notes),
        "<h2>Quality</h2>" if any(r.perplexity or r.divergence for r in records) else "",
        _quality(records),
        _mtp(records),
        "<h2>Tasks</h2>" if any(r.tasks for r in records) else "",
        _tasks(records),
        "<h2>Speed</h2>" if any(r.speed for r in records) else "",
        _speed(records),
        "<h2>Plots</h2>" if plots else "",
        *map(_figure, plots),
        "<h2>What the words mean</h2><dl>",
        *(f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in _WORDS),
        "</dl><h2>How it was measured</h2>",
        *map(_source, results.sources),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Evaluation</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def _summary(results: Results) -> str:
    names = [record.label for record in results.records if not record.is_reference]
    reference = next((r.label for r in results.records if r.is_reference), None)
    text = f"{len(names)} model{'s' if len(names) != 1 else ''}"
    if reference is not None:
        text += f", compared with {reference}"
    texts = {
        data["settings"].get("text") or data["settings"].get("base") for _, data in results.sources
    }
    read = sorted(name for name in texts if name)
    return text + (f"; text: {', '.join(read)}." if read else ".")


def _table(head: Sequence[str], rows: Iterable[tuple[Record, Sequence[str]]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr>"]
    for record, cells in rows:
        name = record.label + (" (reference)" if record.is_reference else "")
        kind = ' class="reference"' if record.is_reference else ""
        body = "".join(f"<td>{escape(cell)}</td>" for cell in (name, *cells))
        lines.append(f"<tr{kind}>{body}</tr>")
    return f'<div class="wide"><table>{"".join(lines)}</table></div>' if len(lines) > 1 else ""


def _pair(value: dict[str, Any] | None, digits: int, factor: float = 1.0) -> str:
    if value is None:
        return ""
    return f"{factor * value['value']:.{digits}f} ± {factor * value['error']:.{digits}f}"


def _size(record: Record) -> tuple[str, str]:
    size = f"{record.bytes / 2**30:.2f} GiB"
    if record.bytes < 2**30:
        size = f"{record.bytes / 2**20:.1f} MiB"
    return size, f"{record.bits_per_weight:.3f}"


def _quality(records: Sequence[Record]) -> str:
    rows = []
    for record in records:
        if not (record.perplexity or record.divergence):
            continue
        kl = (record.divergence or {}).get("kl")
        cells = [*_size(record), _pair(record.perplexity, 4)]
        if kl is not None and record.divergence is not None:
            cells += [
                _pair(kl, 6),
                f"{kl['median']:.6f}",
                f"{kl['p99.9']:.4f}",
                f"{kl['maximum']:.4f}",
                _pair(record.divergence["same_top"], 2, 100),
                _pair(record.divergence["dp_rms"], 3, 100),
            ]
        rows.append((record, [*cells, *([""] * (9 - len(cells)))]))
    head = ("model", "size", "bpw", "PPL", "KL mean", "KL median", "KL 99.9 %", "KL max")
    return _table((*head, "same top, %", "Δp RMS, %"), rows)


def _mtp(records: Sequence[Record]) -> str:
    rows = [
        (record, (_pair(record.mtp_agreement, 3, 100), _pair(record.mtp_perplexity, 4)))
        for record in records
        if record.mtp_agreement
    ]
    table = _table(("model", "MTP head agrees with the trunk, %", "PPL of the head"), rows)
    return f"<h3>Multi-token-prediction head</h3>{table}" if table else ""


def _tasks(records: Sequence[Record]) -> str:
    names = list(dict.fromkeys(key for record in records for key in record.tasks))
    rows = []
    for record in records:
        if record.tasks:
            cells = []
            for name in names:
                task = record.tasks.get(name)
                cells.append(
                    ""
                    if task is None
                    else f"{100 * task['accuracy']:.2f} ± {100 * task['error']:.2f} "
                    f"({task['correct']} of {task['tasks']})"
                )
            rows.append((record, cells))
    return _table(("model", *(f"{kind}: {name}, %" for kind, name in names)), rows)


def _speed(records: Sequence[Record]) -> str:
    measured = [record for record in records if record.speed]
    kinds = list(
        dict.fromkeys(
            key for record in measured for key in record.speed or {} if key != "repetitions"
        )
    )
    return _table(
        ("model", "size", "bpw", *(f"{kind}, tokens/s" for kind in kinds)),
        [
            (r, [*_size(r), *(_pair((r.speed or {}).get(kind), 2) for kind in kinds)])
            for r in measured
        ],
    )


def _figure(plot: Plot) -> str:
    data = base64.b64encode(plot.path.read_bytes()).decode("ascii")
    return (
        f'<figure><h3>{escape(plot.title)}</h3><img alt="{escape(plot.title)}" '
        f'src="data:image/png;base64,{data}"><figcaption>{escape(plot.caption)}</figcaption>'
        "</figure>"
    )


def _source(source: tuple[str, dict[str, Any]]) -> str:
    name, data = source
    machine = data.get("machine", {})
    settings = {k: v for k, v in data["settings"].items() if v not in (None, [], 0)}
    parts = [machine.get("processor", ""), f"{machine.get('threads', '')} threads"]
    facts = {
        "machine": ", ".join(parts + machine.get("gpus", [])),
        "versions": f"apex {data.get('apex', '?')}, llama.cpp {data.get('llama.cpp', '?')}",
        "seconds": f"{data.get('seconds', 0):.1f}",
        "peak memory": f"{data.get('peak_memory_bytes', 0) / 2**20:.0f} MiB",
        **{key.replace("_", " "): str(value) for key, value in settings.items()},
    }
    lines = "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items())
    return f"<details><summary>{escape(name)}</summary><dl>{lines}</dl></details>"
