"""``apex imatrix collect`` and ``apex calibration``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex.cli import output
from apex.cli.arguments import FILES, JsonArgument, ModelArgument, OverwriteArgument, QuietArgument
from apex.cli.matrices import FormatArgument
from apex.cli.output import Printer, Table
from apex.cli.progress import showing_stages
from apex.cli.running import TEXT, RunArguments, TextArguments
from apex.cli.showing import print_unreached
from apex.cli.stopping import ending
from apex.sizes import parse_size

if TYPE_CHECKING:
    from apex.calibration import (
        CalibrationProgress,
        CalibrationResult,
        CollectOptions,
        MomentsPlan,
    )
    from apex.files import ImportanceMatrix
    from apex.sources import ModelFile

__all__ = [
    "calibration",
    "collect",
    "planned_matrix",
    "print_calibration",
    "showing_calibration",
    "usable_matrix",
]

_WHAT = "What is collected"


@dataclass(frozen=True, kw_only=True)
class CalibrationArguments(RunArguments, TextArguments):
    """Over which text a model is run, and how."""

    chunks: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Run at most N chunks.", rich_help_panel=TEXT),
    ] = None
    skip_chunks: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Leave out the first N chunks of each text.",
            rich_help_panel=TEXT,
        ),
    ] = 0
    until_coverage: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Stop when this share of the experts is covered, such as 0.99.",
            rich_help_panel=TEXT,
        ),
    ] = None
    min_tokens: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Tokens that an expert must have seen to be covered.",
            rich_help_panel=TEXT,
        ),
    ] = 32


@dataclass(frozen=True, kw_only=True)
class CollectArguments(
    QuietArgument,
    JsonArgument,
    OverwriteArgument,
    FormatArgument,
    CalibrationArguments,
    ModelArgument,
):
    """What ``apex imatrix collect`` is given."""

    out: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The file to write; by default MODEL's name with .imatrix.gguf, beside it.",
            rich_help_panel=FILES,
        ),
    ] = None
    process_output: Annotated[
        bool,
        typer.Option(
            "--process-output", help="Also collect for the output matrix.", rich_help_panel=_WHAT
        ),
    ] = False
    no_mtp: Annotated[
        bool,
        typer.Option(
            "--no-mtp",
            help="Leave out the multi-token-prediction head.",
            rich_help_panel=_WHAT,
        ),
    ] = False
    in_file: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="An importance matrix to continue from. Repeatable.",
            rich_help_panel=_WHAT,
        ),
    ] = None
    second_moments: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also collect second moments, for --rounding compensated, and write them to FILE.",
            rich_help_panel=_WHAT,
        ),
    ] = None
    max_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Bound on the memory of second moments, such as 8G; half of what is free by "
            "default. The texts are run again for the tensors that do not fit.",
            rich_help_panel=_WHAT,
        ),
    ] = None
    save_every: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Chunks between checkpoints, from which a stopped run goes on.",
            rich_help_panel=FILES,
        ),
    ] = 32


def collect(given: CollectArguments) -> None:
    """Run MODEL over texts and write its importance matrix."""
    from apex.calibration import CollectOptions, calibrate
    from apex.calibration.automatic import path_beside
    from apex.sources import open_model

    printer = Printer(quiet=given.quiet, json=given.json)
    legacy = given.is_legacy()
    texts = given.texts()
    what = CollectOptions(
        run=given.run_options(),
        chunks=given.chunks,
        skip_chunks=given.skip_chunks,
        output_matrix=given.process_output,
        mtp=not given.no_mtp,
        until_coverage=given.until_coverage,
        min_tokens=given.min_tokens,
        save_every=given.save_every,
    )
    memory = None if given.max_memory is None else parse_size(given.max_memory, "--max-memory")
    target = given.out if given.out is not None else path_beside(open_model(given.model))
    with showing_calibration(printer) as progress:
        result = calibrate(
            given.model,
            target,
            texts,
            built_in=given.built_in,
            options=what,
            continue_from=given.in_file or (),
            second_moments=given.second_moments,
            max_memory=memory,
            legacy=legacy,
            overwrite=given.overwrite,
            progress=progress,
        )
    printer.data(lambda: _to_dict(result))
    print_calibration(result, printer)


def planned_matrix(
    model: ModelFile, printer: Printer, options: CollectOptions | None = None
) -> Path | ImportanceMatrix:
    """What ``--imatrix auto`` means where nothing is written: the one that is there, or will be."""
    from apex.calibration.automatic import expected_matrix

    found = usable_matrix(model, options, printer)
    if found is not None:
        return found
    expected = expected_matrix(model)
    printer.note(f"quantize would first make {expected.path}, from the built-in texts")
    return expected


def usable_matrix(
    model: ModelFile, options: CollectOptions | None, printer: Printer
) -> Path | None:
    """The importance matrix beside a model, if it can be used; says what it is.

    options: those it must have been made with; None where any will do. Raises ImatrixError.
    """
    from apex.calibration.automatic import matrix_beside

    found = matrix_beside(model, options)
    if found.is_usable:
        printer.say(f"using {found.path}, which {found.remark}")
        return found.path
    if found.remark:
        printer.note(f"{found.path} {found.remark}")
    return None


@contextmanager
def showing_calibration(printer: Printer) -> Iterator[Callable[[CalibrationProgress], None]]:
    """Progress of a calibration; says how long it takes, and what an interrupt leaves."""
    saved, unit = 0, "chunk"

    def leaves() -> str:
        if not saved:
            return f"no {unit} was finished, so nothing was saved"
        chunks = f"{saved} chunks are" if saved > 1 else "1 chunk is"
        return f"{chunks} saved, and the same command goes on from there"

    with ending(leaves), showing_stages(printer) as stage:

        def progress(step: CalibrationProgress) -> None:
            nonlocal saved, unit
            saved = step.chunks_saved
            unit = "chunk" if step.second_moments is None else "pass"
            if not step.tokens_per_second:
                if step.second_moments is not None and not step.chunks_done:
                    printer.say(_planned(step.second_moments))
                if step.seconds_left is not None:
                    printer.say(
                        f"calibrating with {step.chunks - step.chunks_done} chunks takes about "
                        f"{output.duration(step.seconds_left)}"
                    )
                return
            remark = f"{step.tokens_per_second:.0f} tokens/s"
            if step.coverage is not None:
                remark += f", experts covered {100 * step.coverage.share:.2f} %"
            stage("calibrating", step.chunks_done, step.chunks, remark)

        yield progress


def _planned(plan: MomentsPlan) -> str:
    """What collecting second moments takes."""
    times = "once" if plan.passes == 1 else f"{plan.passes} times"
    return (
        f"second moments of {plan.entries} inputs take {output.size(plan.bytes)} in {plan.path}; "
        f"the texts are run {times}"
    )


def print_calibration(result: CalibrationResult, printer: Printer) -> None:
    """What was collected, and from what."""
    table = Table("Texts", ("text", "chunks"), ("chunks",))
    for name, count in result.text_chunks.items():
        table.add(name, count)
    printer.table(table)
    for text in result.notes:
        printer.note(text)
    if result.coverage is not None:
        printer.paragraph(f"{result.coverage.sentence}.")
        print_unreached(result.coverage, printer)
    speed = (result.tokens - result.resumed_chunks * result.tokens // result.chunks) / max(
        result.seconds, 1e-9
    )
    printer.line(
        f"{result.entries} tensors over {result.tokens} tokens; {result.seconds:.1f} s, "
        f"{speed:.0f} tokens/s, peak memory {output.size(result.peak_memory)}"
    )
    printer.line(f"wrote {result.path}")
    if result.second_moments is not None:
        moments = result.second_moments
        printer.line(f"wrote {moments.path}: second moments, {output.size(moments.bytes)}")


def _to_dict(result: CalibrationResult) -> dict[str, Any]:
    return {
        "path": str(result.path),
        "chunks": result.chunks,
        "tokens": result.tokens,
        "seconds": result.seconds,
        "resumed_chunks": result.resumed_chunks,
        "texts": result.text_chunks,
        "entries": result.entries,
        "coverage": None if result.coverage is None else result.coverage.to_dict(),
        "notes": list(result.notes),
        "peak_memory_bytes": result.peak_memory,
        "second_moments": None
        if result.second_moments is None
        else {
            "path": str(result.second_moments.path),
            "bytes": result.second_moments.bytes,
            "passes": result.second_moments.passes,
        },
    }


@dataclass(frozen=True, kw_only=True)
class TextsArguments(OverwriteArgument):
    """What ``apex calibration`` is given."""

    export: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write the texts there, one file per domain."),
    ] = None


def calibration(given: TextsArguments) -> None:
    """List the built-in calibration texts, or export them. Chats are exported as ChatML."""
    from apex.calibration import BUILT_IN, built_in_text
    from apex.files import OutputSet, check_output

    printer = Printer()
    if given.export is None:
        table = Table("Built-in texts", ("name", "characters", "what"), ("characters",))
        total = 0
        for name, what in BUILT_IN.items():
            size = len(built_in_text(name))
            total += size
            table.add(name, f"{size:,}", what)
        table.add("together", f"{total:,}", "60 to 70 thousand tokens of most vocabularies")
        printer.table(table)
        return
    paths = [given.export / f"{name}.txt" for name in BUILT_IN]
    check_output(paths, overwrite=given.overwrite)
    with ending("nothing was left behind"), OutputSet(paths) as files:
        for name, file in zip(BUILT_IN, files.files, strict=True):
            file.write(built_in_text(name).encode())
        files.commit()
    printer.line(f"wrote {len(paths)} texts to {given.export}")
