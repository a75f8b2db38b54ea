"""What the commands print: data on stdout, the rest on stderr; tables and numbers for people."""

from __future__ import annotations

import json as json_format
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from apex.cli.layout import fold, lay_out

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
    """Rows of text under a heading.

    Attributes:
        heading: printed above; may be empty.
        columns: their names.
        numbers: those that are aligned to the right and never broken.
        names: how many columns at the left say what a row is about.
        rows: as ``add`` puts them there.
        has_total: whether the last row sums up the others.
    """

    heading: str
    columns: Sequence[str]
    numbers: Iterable[str] = ()
    names: int = 1
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

    def paragraph(self, text: str) -> None:
        """Sentences on stdout; a terminal's lines are broken between words."""
        for line in _sentence(text, _width(sys.stdout)):
            self.line(line)

    def table(self, table: Table) -> None:
        """A table and an empty line, on stdout."""
        if self.quiet or self.json:
            return
        emphasized = _bold if is_terminal(sys.stdout) else str
        width = _width(sys.stdout)
        for line in _sentence(table.heading, width) if table.heading else ():
            self._write(emphasized(line))
        rows = [tuple(table.columns), *table.rows]
        numbers = [column in table.numbers for column in table.columns]
        total = len(rows) - 1 if table.has_total else 0
        for row, line in lay_out(rows, numbers, width, names=table.names):
            self._write(emphasized(line) if row in (0, total) else line)
        self._write("")

    def _write(self, line: str) -> None:
        sys.stdout.write(line + "\n")

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


def _bold(text: str) -> str:
    return f"\x1b[1m{text}\x1b[0m"


def _width(stream: TextIO) -> int | None:
    """Columns of the terminal; None where there is none, for a pipe and a file have no width."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def _sentence(text: str, width: int | None) -> list[str]:
    """In lines for a terminal, and in one for everything else."""
    return [printable(text)] if width is None else fold(printable(text), width)


def printable(text: str) -> str:
    """The text with control characters escaped: a file cannot steer the terminal."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(char: str) -> str:
    if char.isprintable():
        return char
    if "\udc80" <= char <= "\udcff":  # how Python reads a byte of a name that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


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
