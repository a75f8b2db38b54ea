"""Consoles, tables and numbers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = [
    "complain",
    "gib",
    "mib",
    "note",
    "print_json",
    "print_table",
    "say",
    "stderr",
    "stdout",
    "table",
]

# Without a terminal nothing is wrapped: a table in a log file keeps its lines whole.
_WIDE = 240


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
    """One line of text on stderr."""
    stderr().print(text, soft_wrap=True)


def note(text: str) -> None:
    """Something that the user should know, on stderr."""
    console = stderr()
    console.print("note:", style="yellow", end=" ")
    console.print(text, soft_wrap=True)


def complain(message: str, hint: str) -> None:
    """An error and what to do about it, on stderr."""
    console = stderr()
    console.print("error:", style="bold red", end=" ")
    console.print(message.rstrip("."), soft_wrap=True)
    if hint:
        console.print("hint:", style="bold cyan", end=" ")
        console.print(hint, soft_wrap=True)


def print_json(data: Any) -> None:
    """Data for machines, on stdout."""
    sys.stdout.write(json.dumps(data, indent=2) + "\n")


def table(title: str, columns: Sequence[str], numbers: Iterable[str] = ()) -> Table:
    """An empty table; the columns in ``numbers`` are aligned to the right."""
    result = Table(title=title or None, title_justify="left", title_style="bold", box=None)
    result.pad_edge = False
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


def print_table(rows: Table, *, to_stderr: bool = False) -> None:
    """Print a table and an empty line."""
    console = _console(to_stderr)
    console.print(rows)
    console.print()


def mib(size: int) -> str:
    """Bytes as MiB with two decimals."""
    return f"{size / 2**20:,.2f}"


def gib(size: int) -> str:
    """Bytes as GiB, or MiB where that is less than one."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.2f} MiB"
