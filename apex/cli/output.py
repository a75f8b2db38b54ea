"""What the commands print: data on stdout, the rest on stderr; tables and numbers for people."""

from __future__ import annotations

import json as json_format
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "Printer",
    "Table",
    "complain",
    "duration",
    "finite",
    "is_terminal",
    "printable",
    "size",
    "stderr",
]

# rich takes a tenth of a second to import, and only terminals need it.

# A pipe has no width: in a log file, lines are whole.
_WIDE = 10_000


@dataclass
class Table:
    """Rows of text under a heading; the columns in ``numbers`` are aligned to the right."""

    heading: str
    columns: Sequence[str]
    numbers: Iterable[str] = ()
    rows: list[tuple[str, ...]] = field(default_factory=list)
    has_total: bool = False

    def add(self, *cells: object) -> None:
        """Add a row; control characters in names and values are escaped."""
        self.rows.append(tuple(printable(str(cell)) for cell in cells))

    def add_total(self, *cells: object) -> None:
        """Add the last row, which sums up the others."""
        self.add(*cells)
        self.has_total = True


@dataclass(frozen=True)
class Printer:
    """The one place that knows what --quiet and --json leave of a command's output.

    quiet: nothing is printed but errors, and ``data`` where it was asked for.
    json: stdout has ``data`` alone, and nothing for people.
    """

    quiet: bool = False
    json: bool = False

    def data(self, make: Callable[[], Any]) -> None:
        """Data for machines, on stdout. Numbers that JSON does not know become null."""
        if self.json:
            sys.stdout.write(json_format.dumps(finite(make()), indent=2, allow_nan=False) + "\n")

    def line(self, text: str = "") -> None:
        """A line on stdout."""
        if not (self.quiet or self.json):
            sys.stdout.write(printable(text) + "\n")

    def table(self, table: Table) -> None:
        """A table and an empty line, on stdout."""
        if not (self.quiet or self.json):
            if sys.stdout.isatty():
                _print_on_terminal(table)
            else:
                sys.stdout.write(_plain(table))

    def say(self, text: str) -> None:
        """A line on stderr."""
        if not self.quiet:
            sys.stdout.flush()
            sys.stderr.write(printable(text) + "\n")

    def note(self, text: str) -> None:
        """Something that the user should know, on stderr."""
        if not self.quiet:
            _labelled("note:", "yellow", text)


def complain(message: str, hint: str = "") -> None:
    """An error and what to do about it, on stderr."""
    _labelled("error:", "bold red", message.rstrip("."))
    if hint:
        _labelled("hint:", "bold cyan", hint)


def _labelled(label: str, style: str, text: str) -> None:
    if not is_terminal(sys.stderr):
        sys.stderr.write(f"{label} {printable(text)}\n")
        return
    from rich.text import Text

    stderr().print(Text.assemble((label, style), " ", printable(text)))


def is_terminal(stream: TextIO) -> bool:
    """Whether colours and bars are wanted there, as on a terminal."""
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def stderr() -> Console:
    """The console on stderr, where it is a terminal."""
    return _console(sys.stderr)


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    size = (None, None) if stream.isatty() else (_WIDE, 25)  # rich takes both or neither
    return Console(
        file=stream, width=size[0], height=size[1], highlight=False, markup=False, emoji=False
    )


def _print_on_terminal(table: Table) -> None:
    from rich.table import Table as RichTable

    console = _console(sys.stdout)
    if table.heading:
        console.print(printable(table.heading), style="bold")
    result = RichTable(box=None, pad_edge=False)
    for column in table.columns:
        is_number = column in table.numbers
        result.add_column(
            column,
            justify="right" if is_number else "left",
            no_wrap=is_number,
            overflow="fold",
            header_style="bold",
        )
    for index, row in enumerate(table.rows):
        is_total = table.has_total and index == len(table.rows) - 1
        result.add_row(*row, style="bold" if is_total else None)
    console.print(result)
    console.print()


def _plain(table: Table) -> str:
    """The table's lines, each as long as its cells are."""
    lines = [tuple(table.columns), *table.rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(table.columns))]
    text = [printable(table.heading)] if table.heading else []
    for line in lines:
        cells = (
            cell.rjust(width) if column in table.numbers else cell.ljust(width)
            for cell, column, width in zip(line, table.columns, widths, strict=True)
        )
        text.append("  ".join(cells).rstrip())
    return "\n".join(text) + "\n\n"


def printable(text: str) -> str:
    """The text with control characters escaped: a file cannot steer the terminal."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def finite(data: Any) -> Any:
    """The same data with None for numbers that are infinite or none."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    return data


def duration(seconds: float) -> str:
    """A time for people, to two digits or so."""
    if seconds < 60:
        return f"{max(seconds, 1):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def size(count: int) -> str:
    """Bytes for people: in GiB from one of them on, in MiB below."""
    return f"{count / 2**30:,.2f} GiB" if count >= 2**30 else f"{count / 2**20:.2f} MiB"
