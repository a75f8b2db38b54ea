"""One HTML page with everything in it: tables, plots, settings. It loads nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

from apex.reporting.drawing import Plot
from apex.reporting.results import Results
from apex.reporting.tables import Cell, Row, Section, Table

__all__ = ["WORDS", "render_page"]

# A table fits a window of 700 pixels: names break anywhere, errors go below their numbers.
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff;
       max-width: 64rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
h1 { font-size: 1.6rem; } h3 { margin-bottom: .3rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0 1.5rem;
        overflow-wrap: normal; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: right;
         vertical-align: top; }
td, .error { white-space: nowrap; } .error { color: #666; font-size: .85em; }
th { background: #f4f4f4; vertical-align: bottom; }
td:has(.error) { white-space: normal; }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere;
                                 min-width: 9rem; }
tr.reference td { color: #555; font-style: italic; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; }
figcaption, .caption { color: #555; max-width: 48rem; }
.note { background: #fff6e0; border-left: 4px solid #e69f00; padding: .4rem .8rem; }
dt { font-weight: 600; } dd { margin: 0 0 .5rem 1rem; }
"""

# What the words mean, for a reader who sees them for the first time.
WORDS = (
    (
        "KL divergence",
        "how far a model's distribution over the next token is from the reference's, in nats; 0 "
        "means that they are the same. The mean is over all scored positions of the text; at one "
        "position in a thousand it is above the column 99.9 %; the maximum is the worst position.",
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


def render_page(
    title: str, summary: str, results: Results, parts: Sequence[Section], plots: Sequence[Plot]
) -> str:
    """The page as text."""
    lines = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="caption">{escape(summary)}</p>',
        *(f'<p class="note">{escape(note)}</p>' for note in results.notes),
        *map(_section, parts),
        "<h2>Plots</h2>" if plots else "",
        *map(_figure, plots),
        "<h2>What the words mean</h2><dl>",
        *(f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in WORDS),
        "</dl><h2>How it was measured</h2>",
        *map(_source, results.sources),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(line for line in lines if line)
        + "\n</body></html>\n"
    )


def _section(part: Section) -> str:
    items = "".join(
        f"<li><b>{escape(name)}</b>: {escape(text)}.</li>" for name, text in part.sentences
    )
    return "".join(
        (
            f"<h2>{escape(part.title)}</h2>",
            f"<ul>{items}</ul>" if items else "",
            f'<p class="caption">{escape(part.text)}</p>' if part.text else "",
            *map(_table, part.tables),
        )
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
    title = f"<h3>{escape(table.title)}</h3>" if table.title else ""
    rows = "".join(map(_row, table.rows))
    return f'{title}<div class="wide"><table><tr>{head}</tr>{rows}</table></div>'


def _row(row: Row) -> str:
    kind = ' class="reference"' if row.is_reference else ""
    return f"<tr{kind}>{''.join(f'<td>{_cell(cell)}</td>' for cell in row.cells)}</tr>"


def _cell(cell: Cell) -> str:
    error = f' <span class="error">± {escape(cell.error)}</span>' if cell.error else ""
    return escape(cell.text) + error


def _figure(plot: Plot) -> str:
    data = base64.b64encode(plot.png).decode("ascii")
    return (
        f'<figure><h3>{escape(plot.title)}</h3><img alt="{escape(plot.title)}" '
        f'src="data:image/png;base64,{data}"><figcaption>{escape(plot.caption)}</figcaption>'
        "</figure>"
    )


def _source(source: tuple[str, Mapping[str, str]]) -> str:
    name, facts = source
    lines = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
    return f"<details><summary>{escape(name)}</summary><dl>{lines}</dl></details>"
