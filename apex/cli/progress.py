"""Progress on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from apex.cli import output
from apex.cli.output import Printer

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

__all__ = ["Advance", "Stage", "showing_progress", "showing_stages"]

Advance = Callable[[int, int, str], None]
Stage = Callable[[str, int, int, str], None]
_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def showing_progress(title: str, printer: Printer) -> Iterator[Advance]:
    """Give a function to be called with done bytes, all bytes and what is at work."""
    if printer.quiet:
        yield lambda done, total, what: None
    elif output.is_terminal(sys.stderr):
        with _bar(in_bytes=True) as stage:
            yield lambda done, total, what: stage(title, done, total, what)
    else:
        stage = _lines(in_bytes=True, printer=printer)
        yield lambda done, total, what: stage(title, done, total, what)


@contextmanager
def showing_stages(printer: Printer) -> Iterator[Stage]:
    """Give a function to be called with a stage's title, done steps, all steps, and a remark."""
    if printer.quiet:
        yield lambda title, done, total, what: None
    elif output.is_terminal(sys.stderr):
        with _bar(in_bytes=False) as stage:
            yield stage
    else:
        yield _lines(in_bytes=False, printer=printer)


@contextmanager
def _bar(*, in_bytes: bool) -> Iterator[Stage]:
    from rich import progress as bars
    from rich.table import Column

    amounts: tuple[ProgressColumn, ...] = (bars.MofNCompleteColumn(),)
    if in_bytes:
        amounts = (bars.TaskProgressColumn(), bars.TransferSpeedColumn())
    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(bar_width=20),
        *amounts,
        bars.TimeRemainingColumn(),
        bars.TextColumn("left"),
        bars.TextColumn(
            "{task.fields[what]}",
            style="dim",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis"),
        ),
    )
    with bars.Progress(*columns, console=output.stderr(), transient=True) as progress:
        task, shown = progress.add_task("", total=None, what=""), ""

        def stage(title: str, done: int, total: int, what: str) -> None:
            nonlocal shown
            if title != shown:
                shown = title
                progress.reset(task, description=output.printable(title))
            progress.update(task, completed=done, total=total, what=output.printable(what))

        yield stage


def _lines(*, in_bytes: bool, printer: Printer) -> Stage:
    begin = last = time.monotonic()
    shown = ""

    def stage(title: str, done: int, total: int, what: str) -> None:
        nonlocal begin, last, shown
        now = time.monotonic()
        if title != shown:
            begin, shown = now, title
        if now - last < _SECONDS_BETWEEN_LINES or not done:
            return
        last = now
        rate = done / max(now - begin, 1e-9)
        speed = f", {rate / 1e6:.0f} MB/s" if in_bytes else f" ({done} of {total})"
        printer.say(
            f"{title}: {100 * done / total:.0f} %{speed}, "
            f"{(total - done) / rate:.0f} s left, {what}".rstrip(", ")
        )

    return stage
