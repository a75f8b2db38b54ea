"""Consoles, tables and numbers."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.style import StyleType
from rich.table import Table
from rich.text import Text

__all__ = [
    "Rows",
    "complain",
    "finite",
    "mib",
    "mib_and_gib",
    "note",
    "print_json",
    "print_table",
    "printable",
    "say",
    "stderr",
    "stdout",
    "table",
]

# Without a terminal nothing is wrapped: a table in a log file keeps its lines whole.
_WIDE = 10_000


class Rows(Table):
    """A table whose cells are plain text, whatever a file has put into its names and values."""

    heading = ""

    def add_row(
        self, *cells: Any, style: StyleType | None = None, end_section: bool = False
    ) -> None:
        """Add a line."""
        super().add_row(
            *(printable(str(cell)) for cell in cells), style=style, end_section=end_section
        )


def printable(text: str) -> str:
    """The text with control characters escaped: a file cannot steer the terminal."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _console(to_stderr: bool) -> Console:
    stream = sys.stderr if to_stderr else sys.stdout
    width = None if stream.isatty() else _WIDE
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def stdout() -> Console:
    """The console for data."""
    return _console(to_stderr=False)


def stderr() -> Console:
    """The console for everything else."""
    return _console(to_stderr=True)


def say(text: str) -> None:
    """A line of text on stderr."""
    stderr().print(printable(text))


def note(text: str) -> None:
    """Something that the user should know, on stderr."""
    _labelled("note:", "yellow", text)


def complain(message: str, hint: str) -> None:
    """An error and what to do about it, on stderr."""
    _labelled("error:", "bold red", message.rstrip("."))
    if hint:
        _labelled("hint:", "bold cyan", hint)


def _labelled(label: str, style: str, text: str) -> None:
    stderr().print(Text.assemble((label, style), " ", printable(text)))


def print_json(data: Any) -> None:
    """Data for machines, on stdout. Numbers that JSON does not know become null."""
    sys.stdout.write(json.dumps(finite(data), indent=2, allow_nan=False) + "\n")


def finite(data: Any) -> Any:
    """The same data with None for numbers that are infinite or none."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    return data


def table(heading: str, columns: Sequence[str], numbers: Iterable[str] = ()) -> Rows:
    """An empty table; the columns in ``numbers`` are aligned to the right."""
    result = Rows(box=None, pad_edge=False)
    result.heading = heading
    right = set(numbers)
    for column in columns:
        result.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=column in right,
            overflow="fold",
            header_style="bold",
        )
    return result


def print_table(rows: Rows) -> None:
    """Print a table and an empty line, on stdout."""
    console = stdout()
    if rows.heading:
        console.print(printable(rows.heading), style="bold")
    if console.is_terminal:
        console.print(rows)
        console.print()
        return
    with console.capture() as captured:
        console.print(rows)
    lines = (line.rstrip() for line in captured.get().splitlines())
    sys.stdout.write("\n".join(lines) + "\n\n")


def mib(size: int) -> str:
    """Bytes as MiB with two decimals."""
    return f"{size / 2**20:,.2f}"


def mib_and_gib(size: int) -> str:
    """Bytes as both, for people."""
    return f"{mib(size)} MiB ({size / 2**30:.2f} GiB)"
