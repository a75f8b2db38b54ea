"""Progress on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column

from apex.cli import output

__all__ = ["Advance", "Stage", "showing_progress", "showing_stages"]

Advance = Callable[[int, int, str], None]
Stage = Callable[[str, int, int, str], None]
_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def showing_progress(title: str, quiet: bool) -> Iterator[Advance]:
    """Give a function to be called with done bytes, all bytes and what is at work."""
    if quiet:
        yield lambda done, total, what: None
    elif output.stderr().is_terminal:
        with _bar(TaskProgressColumn(), TransferSpeedColumn()) as stage:
            yield lambda done, total, what: stage(title, done, total, what)
    else:
        stage = _lines(in_bytes=True)
        yield lambda done, total, what: stage(title, done, total, what)


@contextmanager
def showing_stages(quiet: bool) -> Iterator[Stage]:
    """Give a function to be called with a stage's title, done steps, all steps, and a remark."""
    if quiet:
        yield lambda title, done, total, what: None
    elif output.stderr().is_terminal:
        with _bar(MofNCompleteColumn()) as stage:
            yield stage
    else:
        yield _lines(in_bytes=False)


@contextmanager
def _bar(*amounts: ProgressColumn) -> Iterator[Stage]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        *amounts,
        TimeRemainingColumn(),
        TextColumn(
            "{task.fields[what]}",
            style="dim",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis"),
        ),
    )
    with Progress(*columns, console=output.stderr(), transient=True) as progress:
        task, shown = progress.add_task("", total=None, what=""), ""

        def stage(title: str, done: int, total: int, what: str) -> None:
            nonlocal shown
            if title != shown:
                shown = title
                progress.reset(task, description=output.printable(title))
            progress.update(task, completed=done, total=total, what=output.printable(what))

        yield stage


def _lines(*, in_bytes: bool) -> Stage:
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
        output.say(
            f"{title}: {100 * done / total:.0f} %{speed}, "
            f"{(total - done) / rate:.0f} s left, {what}".rstrip(", ")
        )

    return stage
