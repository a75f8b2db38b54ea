"""``apex imatrix merge`` and ``apex imatrix show``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apex.cli.arguments import FILES, JsonArgument, OverwriteArgument, QuietArgument
from apex.cli.output import Printer, Table
from apex.cli.stopping import ending
from apex.errors import UsageError

if TYPE_CHECKING:
    from apex.calibration import Coverage
    from apex.calibration.summary import TensorStatistics

__all__ = ["FormatArgument", "merge", "print_coverage", "show"]

_SHOWN_LAYERS = 12


@dataclass(frozen=True, kw_only=True)
class FormatArgument:
    """``--output-format``."""

    output_format: Annotated[
        str,
        typer.Option(
            "--output-format",
            metavar="gguf|dat",
            help="dat is the older form, which knows no experts.",
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
        list[Path], typer.Argument(metavar="FILE...", help="Importance matrices of one model.")
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
    """Add up importance matrices, in GGUF form or .dat; one alone is converted."""
    from apex.calibration import ImportanceAccumulator
    from apex.files import check_output, load_imatrix

    printer = Printer(quiet=given.quiet)
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


@dataclass(frozen=True, kw_only=True)
class ShowArguments(JsonArgument):
    """What ``apex imatrix show`` is given."""

    file: Annotated[Path, typer.Argument(metavar="FILE", help="An importance matrix.")]
    layers: Annotated[
        bool, typer.Option("--layers", help="Averages per layer instead of every tensor.")
    ] = False
    min_tokens: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Tokens that an expert must have seen to be covered."
        ),
    ] = 32


def show(given: ShowArguments) -> None:
    """Statistics of an importance matrix: tensors, layers, experts, the columns that dominate."""
    from apex.calibration import coverage_of
    from apex.calibration.summary import layer_statistics, tensor_statistics
    from apex.errors import ImatrixError
    from apex.files import load_imatrix

    printer = Printer(json=given.json)
    matrix = load_imatrix(given.file)
    for name, entry in matrix.entries.items():
        if not entry.is_sound():
            raise ImatrixError(
                f"{given.file}: {name} holds values that are negative or not finite.",
                "write the importance matrix again",
            )
    tensors = tensor_statistics(matrix)
    per_layer = layer_statistics(tensors)
    counts = {name: entry.counts for name, entry in matrix.entries.items()}
    coverage = coverage_of(counts, given.min_tokens)
    printer.data(
        lambda: {
            "path": str(given.file),
            "datasets": list(matrix.datasets),
            "chunk_count": matrix.chunk_count,
            "chunk_size": matrix.chunk_size,
            "notes": dict(matrix.notes),
            "coverage": None if coverage is None else coverage.to_dict(),
            "tensors": [tensor.to_dict() for tensor in tensors],
            "layers": [layer.to_dict() for layer in per_layer],
        }
    )
    if given.layers:
        numbers = ("layer", "mean total", "outliers %", "similarity")
        table = Table("Averages per layer", numbers, numbers)
        for layer in per_layer:
            table.add(
                layer.layer,
                f"{layer.total:.2f}",
                f"{100 * layer.outliers:.2f}",
                f"{layer.similarity:.4f}",
            )
        printer.table(table)
    else:
        _print_tensors(tensors, printer)
    form = "a .dat" if matrix.is_legacy else "GGUF"
    printer.line(
        f"{len(matrix.entries)} tensors in {form} file, {matrix.chunk_count} chunks"
        + (f" of {matrix.chunk_size} tokens" if matrix.chunk_size else "")
    )
    if matrix.datasets:
        printer.line("texts: " + ", ".join(matrix.datasets))
    if coverage is not None:
        print_coverage(coverage, printer)


def _print_tensors(tensors: tuple[TensorStatistics, ...], printer: Printer) -> None:
    numbers = ("total", "max", "mean", "active %", "entropy %", "outliers %", "similarity")
    columns = ("tensor", *numbers, "largest columns", "experts")
    table = Table("Mean squared activations", columns, numbers)
    for tensor in tensors:
        dominant = ", ".join(f"{column} ({100 * share:.1f} %)" for column, share in tensor.dominant)
        table.add(
            tensor.name,
            f"{tensor.total:.2f}",
            f"{tensor.maximum:.4g}",
            f"{tensor.mean:.4g}",
            f"{100 * tensor.active:.2f}",
            f"{100 * tensor.relative_entropy:.2f}",
            f"{100 * tensor.outliers:.2f}",
            "" if tensor.similarity is None else f"{tensor.similarity:.4f}",
            dominant,
            f"{tensor.reached}/{tensor.experts}" if tensor.experts > 1 else "",
        )
    printer.table(table)


def print_coverage(coverage: Coverage, printer: Printer) -> None:
    """How many of the routed experts the texts reached."""
    printer.line(
        f"experts: {coverage.reached} of {coverage.experts} reached, {coverage.covered} have seen "
        f"{coverage.min_tokens} tokens or more ({100 * coverage.share:.2f} %); median "
        f"{coverage.median:.0f}, fewest {coverage.fewest}"
    )
    layers = list(coverage.unreached.items())
    for layer, experts in layers[:_SHOWN_LAYERS]:
        which = ", ".join(map(str, experts[:_SHOWN_LAYERS]))
        more = f" and {len(experts) - _SHOWN_LAYERS} more" if len(experts) > _SHOWN_LAYERS else ""
        printer.note(f"layer {layer}: no token reached experts {which}{more}")
    if len(layers) > _SHOWN_LAYERS:
        printer.note(f"{len(layers) - _SHOWN_LAYERS} more layers have such experts")
