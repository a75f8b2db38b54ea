"""Progress on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column

from apex.cli import output

__all__ = ["Advance", "showing_progress"]

Advance = Callable[[int, int, str], None]
_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def showing_progress(title: str, quiet: bool) -> Iterator[Advance]:
    """Give a function to be called with done bytes, all bytes and what is at work."""
    if quiet:
        yield lambda done, total, what: None
    elif output.stderr().is_terminal:
        yield from _bar(title)
    else:
        yield _lines(title)


def _bar(title: str) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn(
            "{task.fields[what]}",
            style="dim",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis"),
        ),
    )
    with Progress(*columns, console=output.stderr(), transient=True) as progress:
        task = progress.add_task(title, total=None, what="")

        def advance(done: int, total: int, what: str) -> None:
            progress.update(task, completed=done, total=total, what=output.printable(what))

        yield advance


def _lines(title: str) -> Advance:
    begin = last = time.monotonic()

    def advance(done: int, total: int, what: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _SECONDS_BETWEEN_LINES or not done:
            return
        last = now
        rate = done / (now - begin)
        output.say(
            f"{title}: {100 * done / total:.0f} %, {rate / 1e6:.0f} MB/s, "
            f"{(total - done) / rate:.0f} s left, {what}".rstrip(", ")
        )

    return advance
