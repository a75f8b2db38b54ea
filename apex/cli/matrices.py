"""``apex imatrix merge``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from apex.cli.arguments import FILES, OverwriteArgument, QuietArgument
from apex.cli.output import Printer
from apex.cli.stopping import ending
from apex.errors import UsageError

__all__ = ["FormatArgument", "merge"]


@dataclass(frozen=True, kw_only=True)
class FormatArgument:
    """``--output-format``."""

    output_format: Annotated[
        str,
        typer.Option(
            "--output-format",
            metavar="gguf|dat",
            help="dat is the older form, which does not record experts.",
            rich_help_panel=FILES,
        ),
    ] = "gguf"

    def is_legacy(self) -> bool:
        """Whether the older form is written. Raises UsageError."""
        if self.output_format not in ("gguf", "dat"):
            raise UsageError(
                f"There is no format {self.output_format}.", "use --output-format gguf or dat"
            )
        return self.output_format == "dat"


@dataclass(frozen=True, kw_only=True)
class MergeArguments(QuietArgument, OverwriteArgument, FormatArgument):
    """What ``apex imatrix merge`` is given."""

    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help="Importance matrices of one model, or second moments."
        ),
    ]
    out: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")]
    chunk_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Tokens of a chunk, where the files do not say (.dat); 512 by default.",
        ),
    ] = None


def merge(given: MergeArguments) -> None:
    """Add up importance matrices, or second moments; a single .dat or GGUF file is converted."""
    from apex.calibration import ImportanceAccumulator
    from apex.files import check_output, is_second_moments, load_imatrix

    printer = Printer(quiet=given.quiet)
    if any(map(is_second_moments, given.files)):
        _merge_second_moments(given, printer)
        return
    check_output([given.out], given.files, overwrite=given.overwrite)
    loaded = [load_imatrix(path) for path in given.files]
    sizes = {matrix.chunk_size for matrix in loaded if matrix.chunk_size}
    if given.chunk_size is None and len(sizes) > 1:
        printer.note("the files have chunks of different sizes; the first one's is written")
    size = given.chunk_size or next((m.chunk_size for m in loaded if m.chunk_size), 512)
    matrix = ImportanceAccumulator(chunk_size=size)
    for part in loaded:
        matrix.merge(part)
    with ending("nothing was left behind"):
        path = matrix.save(given.out, legacy=given.is_legacy(), overwrite=given.overwrite)
    printer.line(f"wrote {path}: {len(matrix.entries)} tensors")


def _merge_second_moments(given: MergeArguments, printer: Printer) -> None:
    from apex.files import merge_second_moments

    with ending("what was merged is kept, and the same command goes on from there"):
        path = merge_second_moments(given.files, given.out, overwrite=given.overwrite)
    printer.line(f"wrote {path}: second moments of {len(given.files)} files")
