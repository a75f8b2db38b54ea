"""``apex publish``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex.cli.arguments import (
    FILES,
    TIER,
    JsonArgument,
    OverwriteArgument,
    QuietArgument,
    ThreadsArgument,
)
from apex.cli.output import Printer, Table, duration, size
from apex.cli.progress import showing_stages
from apex.cli.stopping import ending
from apex.errors import UsageError
from apex.sizes import parse_size

if TYPE_CHECKING:
    from apex.publishing import Due, Pipeline, Publication, Step

__all__ = ["publish"]

_JUDGE, _CARD, _STAGES = "How files are judged", "What the card says", "Which stages"


@dataclass(frozen=True, kw_only=True)
class PublishArguments(QuietArgument, JsonArgument, OverwriteArgument, ThreadsArgument):
    """What ``apex publish`` is given."""

    model: Annotated[
        Path | None,
        typer.Argument(metavar="MODEL", help="A GGUF file, or a TOML file that names one."),
    ] = None
    folder: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Where it all goes.", rich_help_panel=FILES
        ),
    ] = None
    init: Annotated[
        bool,
        typer.Option("--init", help="Print a commented TOML file to start from, and stop."),
    ] = False
    tier: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A tier, or all; may be repeated.", rich_help_panel=TIER),
    ] = None
    file: Annotated[
        list[Path] | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE",
            help="A calibration text; may be repeated.",
            rich_help_panel=TIER,
        ),
    ] = None
    no_built_in: Annotated[
        bool,
        typer.Option("--no-built-in", help="Leave out the built-in texts.", rich_help_panel=TIER),
    ] = False
    chunks: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Calibrate on N chunks at most.", rich_help_panel=TIER
        ),
    ] = None
    split_max_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Write larger files as shards, as in 45G.", rich_help_panel=FILES
        ),
    ] = None
    max_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="For quantizing, as in 8G.", rich_help_panel=FILES),
    ] = None
    evaluate_on: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A text for perplexity and KL divergence, in no calibration.",
            rich_help_panel=_JUDGE,
        ),
    ] = None
    evaluate_chunks: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Judge by N chunks at most.", rich_help_panel=_JUDGE),
    ] = None
    hellaswag: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Tasks.", rich_help_panel=_JUDGE)
    ] = None
    winogrande: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Tasks.", rich_help_panel=_JUDGE)
    ] = None
    multiple_choice: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Tasks.", rich_help_panel=_JUDGE)
    ] = None
    harness: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK",
            help="A task of lm-evaluation-harness, such as gsm8k; may be repeated.",
            rich_help_panel=_JUDGE,
        ),
    ] = None
    speed: Annotated[
        bool, typer.Option("--speed", help="Measure speed.", rich_help_panel=_JUDGE)
    ] = False
    caches: Annotated[
        bool,
        typer.Option("--caches", help="Compare smaller KV caches too.", rich_help_panel=_JUDGE),
    ] = False
    base_model: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="The original on the Hub.", rich_help_panel=_CARD),
    ] = None
    repository: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Where the files will be.", rich_help_panel=_CARD),
    ] = None
    begin: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="STAGE",
            help="Make this stage and all after it again.",
            rich_help_panel=_STAGES,
        ),
    ] = None
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="STAGE", help="Only this stage.", rich_help_panel=_STAGES),
    ] = None
    skip: Annotated[
        list[str] | None,
        typer.Option(metavar="STAGE", help="Leave out this stage.", rich_help_panel=_STAGES),
    ] = None
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show stages, sizes and disk, and stop.", rich_help_panel=_STAGES
        ),
    ] = False

    def publication(self) -> Publication:
        """What is asked for. Raises UsageError."""
        from apex.publishing import Publication, load_publication

        if self.model is None:
            raise UsageError("The model is missing.", "apex publish MODEL -o FOLDER")
        given = self._given()
        if self.model.suffix == ".toml":
            found = load_publication(self.model, given)
        elif self.folder is None:
            raise UsageError("The folder is missing.", "apex publish MODEL -o FOLDER")
        else:
            found = Publication(**{"model": self.model, **given})
        return self._with_card(found)

    def _given(self) -> dict[str, Any]:
        """What the command line says, by the names of a Publication."""
        values: dict[str, Any] = {
            "folder": self.folder,
            "tiers": tuple(self.tier) if self.tier else None,
            "texts": tuple(self.file) if self.file else None,
            "built_in": False if self.no_built_in else None,
            "chunks": self.chunks,
            "evaluate_on": self.evaluate_on,
            "evaluate_chunks": self.evaluate_chunks,
            "hellaswag": self.hellaswag,
            "winogrande": self.winogrande,
            "multiple_choice": self.multiple_choice,
            "harness": tuple(self.harness) if self.harness else None,
            "speed": True if self.speed else None,
            "caches": True if self.caches else None,
            "split_max_size": _bytes(self.split_max_size, "--split-max-size", 1000),
            "max_memory": _bytes(self.max_memory, "--max-memory"),
            "threads": self.threads or None,
        }
        return {name: value for name, value in values.items() if value is not None}

    def _with_card(self, found: Publication) -> Publication:
        from dataclasses import replace

        card = found.card
        return replace(
            found,
            card=replace(
                card,
                base_model=self.base_model or card.base_model,
                repository=self.repository or card.repository,
            ),
        )


def publish(given: PublishArguments) -> None:
    """Make a finished folder of a model: tiers, numbers, report, card.

    The stages: calibrate, quantize, verify, evaluate, caches, report, checksums, card. It can be
    stopped at any time; the same command does what is missing or stale, and says why.
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
    if not todo:
        printer.line(f"{asked.folder} is complete and up to date")
    with ending("the same command goes on from here"), showing_stages(printer) as advance:

        def told(step: Step, reason: str) -> None:
            printer.say(f"{step.name}: {reason}")

        pipeline.run(due, told, advance)
    printer.data(lambda: _data(due))
    if todo:
        printer.line(f"{asked.folder} is complete")


def _show(pipeline: Pipeline, due: list[Due], printer: Printer) -> None:
    from apex.publishing import free_bytes

    table = Table("", ("step", "what has to be done", "took"), ("took",))
    for item in due:
        took = pipeline.seconds(item.step)
        table.add(item.step.name, item.reason or "nothing", "" if took is None else duration(took))
    printer.table(table)
    free = free_bytes(pipeline.planned.folder)
    has = "" if free is None else f"; {size(free)} are free"
    printer.line(f"all files: {size(pipeline.planned.bytes)}{has}")


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


def _bytes(text: str | None, option: str, unit: int = 1024) -> int | None:
    return None if text is None else parse_size(text, option, unit)
