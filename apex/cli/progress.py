"""Progress on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from apex.cli import output

__all__ = ["Advance", "showing_progress"]

Advance = Callable[[int, int, str], None]
_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def showing_progress(title: str, quiet: bool) -> Iterator[Advance]:
    """Give a function to be called with done bytes, all bytes and what is at work."""
    console = output.stderr()
    if quiet:
        yield lambda done, total, what: None
    elif console.is_terminal:
        yield from _bar(title)
    else:
        yield _lines(title)


def _bar(title: str) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[what]}", style="dim", markup=False),
    )
    with Progress(*columns, console=output.stderr(), transient=True) as progress:
        task = progress.add_task(title, total=None, what="")

        def advance(done: int, total: int, what: str) -> None:
            progress.update(task, completed=done, total=total, what=what)

        yield advance


def _lines(title: str) -> Advance:
    begin = last = time.monotonic()

    def advance(done: int, total: int, what: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _SECONDS_BETWEEN_LINES:
            return
        last = now
        rate = done / (now - begin)
        left = (total - done) / rate if rate else 0.0
        output.say(
            f"{title}: {100 * done / total:.0f} %, {rate / 2**20:.0f} MiB/s, "
            f"{left:.0f} s left, {what}"
        )

    return advance
