"""``apex publish``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import typer

from apex.cli.output import Printer, Table, duration, size
from apex.cli.progress import showing_stages
from apex.cli.publish_arguments import PublishArguments
from apex.cli.stopping import ending
from apex.errors import UsageError

if TYPE_CHECKING:
    from apex.publishing import Due, Pipeline, Step

__all__ = ["publish"]


def publish(given: PublishArguments) -> None:
    """Make a finished folder of a model: tiers, numbers, report, card.

    The stages: fetch, convert, calibrate, quantize, verify, evaluate, caches, report, checksums,
    card, upload. It can be stopped at any time; the same command does what is missing or stale, and
    says why.
    """
    from apex.publishing import Pipeline, template

    printer = Printer(quiet=given.quiet, json=given.json)
    if given.init:
        printer.line(template().rstrip("\n"))
        return
    asked = given.publication()
    pipeline = Pipeline(asked)
    due = pipeline.due(begin=given.begin, only=given.only or (), skip=given.skip or ())
    todo = [item for item in due if item.reason is not None]
    if given.dry_run:
        printer.data(lambda: _data(due))
        _show(pipeline, due, printer)
        return
    pipeline.check(due, overwrite=given.overwrite)
    if any(item.step.stage == "upload" for item in todo):
        _confirm(pipeline, given, printer)
    if not todo:
        printer.line(f"{asked.folder} is complete and up to date")
    with ending("the same command goes on from here"), showing_stages(printer) as advance:

        def told(step: Step, reason: str) -> None:
            printer.say(f"{step.name}: {reason}")

        removed = pipeline.run(due, told, advance, keep=given.keep)
    for path in removed:
        printer.say(f"removed {path}, which is made again when it is needed; --keep keeps it")
    printer.data(lambda: _data(due))
    if todo:
        printer.line(f"{asked.folder} is complete")


def _confirm(pipeline: Pipeline, given: PublishArguments, printer: Printer) -> None:
    """Say what goes where, before hours of work, and ask. Raises UsageError for a no."""
    from apex.publishing import uploads

    planned = pipeline.planned
    visible = "public" if planned.asked.public else "private"
    where = f"{planned.asked.card.repository}, {visible} if it has to be made"
    printer.say(f"to {where}, {size(planned.bytes)}:")
    for path in uploads(planned):
        printer.say(f"  {path.name}")
    if given.yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("Nobody can be asked whether to upload.", "give --yes, or leave --upload")
    if not typer.confirm("Upload these?", err=True):
        raise UsageError("Nothing was done.", "leave out --upload to make the files alone")


def _show(pipeline: Pipeline, due: list[Due], printer: Printer) -> None:
    from apex.publishing import free_bytes

    table = Table("", ("step", "what has to be done", "disk", "took"), ("disk", "took"))
    for item in due:
        took = pipeline.seconds(item.step)
        table.add(
            item.step.name,
            item.reason or "nothing",
            size(item.step.bytes) if item.step.bytes else "",
            "" if took is None else duration(took),
        )
    printer.table(table)
    free = free_bytes(pipeline.planned.folder)
    has = "" if free is None else f"; {size(free)} are free"
    total, kept = sum(item.step.bytes for item in due), pipeline.planned.bytes
    until = f", and {size(total - kept)} until the end" if total > kept else ""
    printer.line(f"all files: {size(kept)}{until}{has}")


def _data(due: list[Due]) -> list[dict[str, Any]]:
    return [
        {
            "step": item.step.name,
            "stage": item.step.stage,
            "reason": item.reason,
            "needs": dict(item.step.needs),
            "outputs": [str(path) for path in item.step.outputs],
        }
        for item in due
    ]
