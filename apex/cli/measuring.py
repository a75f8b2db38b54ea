"""``apex measure run``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex.cli import output
from apex.cli.arguments import (
    FILES,
    JsonArgument,
    ModelArgument,
    OverwriteArgument,
    QuietArgument,
    RoundingArguments,
)
from apex.cli.calibrating import print_calibration, showing_calibration, usable_matrix
from apex.cli.output import Printer
from apex.cli.progress import showing_stages
from apex.cli.running import TEXT, ResidentArgument, RunArguments, TextArguments
from apex.cli.sensitivities import kind_table
from apex.cli.stopping import ending
from apex.cli.values import is_automatic, parse_duration

if TYPE_CHECKING:
    from apex.files import ImportanceMatrix
    from apex.sensitivity import MeasureCost, MeasureOptions, MeasureProgress, MeasureResult
    from apex.sources import ModelFile

__all__ = ["measure"]

_WHAT = "What is measured"


@dataclass(frozen=True, kw_only=True)
class MeasureArguments(
    QuietArgument,
    JsonArgument,
    OverwriteArgument,
    ResidentArgument,
    RunArguments,
    TextArguments,
    RoundingArguments,
    ModelArgument,
):
    """What ``apex measure`` is given."""

    out: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The file to write; by default MODEL's name with .sensitivity.json, beside it.",
            rich_help_panel=FILES,
        ),
    ] = None
    imatrix: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|auto",
            help="Importance matrix with which the model will be quantized. auto: the one beside "
            "the model, made where there is none.",
            rich_help_panel=_WHAT,
        ),
    ] = None
    levels: Annotated[
        str,
        typer.Option(
            metavar="TYPE,TYPE",
            help="What every group of tensors is quantized to, one probe each.",
            rich_help_panel=_WHAT,
        ),
    ] = "Q3_K,IQ2_S"
    detail: Annotated[
        str,
        typer.Option(
            metavar="kind|part|tensor",
            help="How finely tensors are grouped. part tells gate from up.",
            rich_help_panel=_WHAT,
        ),
    ] = "kind"
    sample: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Weights of each tensor that are looked at for its errors; 0 for all.",
            rich_help_panel=_WHAT,
        ),
    ] = 1 << 20
    time: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="How long it may take, such as 30m or 1h30m: fewer chunks, then fewer probes.",
            rich_help_panel=_WHAT,
        ),
    ] = None
    chunks: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Chunks that each probe runs over.", rich_help_panel=TEXT
        ),
    ] = 4

    def measure_options(self) -> MeasureOptions:
        """These, as ``apex.measure`` takes them. Raises UsageError."""
        from apex.sensitivity import MeasureOptions

        return MeasureOptions(
            run=self.run_options(),
            chunks=self.chunks,
            levels=tuple(level.strip().upper() for level in self.levels.split(",")),
            detail=self.detail,
            sample=self.sample,
            seconds=None if self.time is None else parse_duration(self.time, "--time"),
            resident=self.resident,
            rounding=self.rounding,
            second_moments=self.second_moments,
        )


def measure(given: MeasureArguments) -> None:
    """Run MODEL to learn what quantizing each part of it costs, and write that to a file.

    One group of tensors after the other is quantized in memory, and the output compared with the
    unchanged model's. A run that was stopped goes on when the same command is given again.
    """
    import apex
    from apex.files import check_output
    from apex.sensitivity import sensitivity_path

    printer = Printer(quiet=given.quiet, json=given.json)
    options = given.measure_options()
    texts = given.texts()
    model = apex.open_model(given.model)
    target = given.out if given.out is not None else sensitivity_path(model)
    check_output([target], model.files, overwrite=given.overwrite)
    matrix = _matrix(given, model, options, printer)
    with _showing(printer) as progress:
        result = apex.measure(
            model,
            target,
            matrix,
            texts,
            built_in=given.built_in,
            options=options,
            overwrite=given.overwrite,
            progress=progress,
        )
    printer.data(lambda: _to_dict(result))
    _print(result, printer)


def _matrix(
    given: MeasureArguments, model: ModelFile, options: MeasureOptions, printer: Printer
) -> ImportanceMatrix | None:
    """The importance matrix; the one beside the model is made where it is wanted and missing."""
    from apex.calibration import CollectOptions
    from apex.calibration.automatic import calibrate_beside, path_beside
    from apex.files import load_imatrix
    from apex.inference import RunOptions

    if given.imatrix is None:
        printer.note(
            "without --imatrix, types that need an importance matrix (IQ3_XXS, IQ2_S, IQ2_XS, "
            "IQ2_XXS) are not measured"
        )
        return None
    if not is_automatic(given.imatrix):
        return load_imatrix(given.imatrix)
    found = usable_matrix(model, None, printer)
    if found is None:
        printer.say(f"making {path_beside(model)} from the built-in texts")
        run = RunOptions(threads=options.run.threads, gpu_layers=options.run.gpu_layers)
        with showing_calibration(printer) as progress:
            found, made = calibrate_beside(
                model, options=CollectOptions(run=run), progress=progress
            )
        if made is not None:
            print_calibration(made, printer)
    return load_imatrix(found)


@contextmanager
def _showing(printer: Printer) -> Iterator[Callable[[MeasureProgress], None]]:
    """Progress of a measurement; says what it costs, and what an interrupt leaves."""
    saved, has_begun, said, is_timed = 0, False, None, False

    def leaves() -> str:
        if not has_begun:
            return "nothing was measured yet"
        probes = "1 probe is" if saved == 1 else f"{saved} probes are"
        return f"{probes} saved, and the same command goes on from there"

    with ending(leaves), showing_stages(printer) as stage:

        def progress(step: MeasureProgress) -> None:
            nonlocal saved, has_begun, said, is_timed
            saved, has_begun = step.saved, has_begun or step.stage != "errors"
            if step.cost != said:
                printer.say(_cost(step.cost))
                said = step.cost
            if step.seconds_left is not None and not is_timed:
                printer.say(f"the probes take about {output.duration(step.seconds_left)}")
                is_timed = True
            if step.stage == "errors":
                stage("errors of types", 100 * step.done // max(step.total, 1), 100, step.what)
            elif step.stage == "reference":
                stage("unchanged model", step.done, step.total, "")
            else:
                stage("probes", step.done, step.total, step.what)

        yield progress


def _cost(cost: MeasureCost) -> str:
    return (
        f"{cost.probes:,} probes of {cost.groups:,} groups over {cost.chunks} "
        f"chunk{'s' if cost.chunks != 1 else ''} of {cost.context_length} tokens: "
        f"{cost.tokens:,} tokens to run"
    )


def _print(result: MeasureResult, printer: Printer) -> None:
    """What deserves bits, and what it took to know."""
    printer.table(kind_table(result.sensitivity))
    for text in result.notes:
        printer.note(text)
    if not result.sensitivity.is_complete:
        printer.note("what was not measured is estimated from layers nearby, if those were")
    printer.line(
        f"{result.probes:,} probes, of which {result.resumed:,} were there before; "
        f"{result.tokens:,} tokens in {output.duration(result.seconds)}"
        if result.resumed
        else f"{result.probes:,} probes; {result.tokens:,} tokens in "
        f"{output.duration(result.seconds)}"
    )
    printer.line(f"wrote {result.path}")


def _to_dict(result: MeasureResult) -> dict[str, Any]:
    return {
        "path": str(result.path),
        "is_complete": result.sensitivity.is_complete,
        "groups": len(result.sensitivity.groups),
        "probes": result.probes,
        "resumed_probes": result.resumed,
        "chunks": result.sensitivity.text.chunks,
        "tokens": result.tokens,
        "seconds": result.seconds,
        "notes": list(result.notes),
    }
