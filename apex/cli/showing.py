"""``apex imatrix show``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apex.cli.arguments import JsonArgument
from apex.cli.output import Printer, Table

if TYPE_CHECKING:
    from apex.calibration import Coverage
    from apex.calibration.summary import LayerStatistics, TensorStatistics
    from apex.calibration.verdict import Verdict
    from apex.files import ImportanceMatrix

__all__ = ["print_unreached", "show"]

_SHOWN_LAYERS = 12


@dataclass(frozen=True, kw_only=True)
class ShowArguments(JsonArgument):
    """What ``apex imatrix show`` is given."""

    file: Annotated[Path, typer.Argument(metavar="FILE", help="An importance matrix.")]
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="A model: which of its tensors have no entry? Only its header is read.",
        ),
    ] = None
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
    """Is an importance matrix good enough? A verdict, then statistics of every tensor."""
    from apex.calibration import coverage_of
    from apex.calibration.summary import layer_statistics, tensor_statistics
    from apex.calibration.verdict import judge
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
    coverage = coverage_of(
        {name: entry.counts for name, entry in matrix.entries.items()}, given.min_tokens
    )
    missing = None if given.model is None else _without_entry(given.model, matrix)
    verdict = judge(matrix, coverage, missing)
    tensors = tensor_statistics(matrix)
    layers = layer_statistics(tensors)
    printer.data(
        lambda: {
            "path": str(given.file),
            "verdict": verdict.to_dict(),
            "datasets": list(matrix.datasets),
            "chunk_count": matrix.chunk_count,
            "chunk_size": matrix.chunk_size,
            "notes": dict(matrix.notes),
            "coverage": None if coverage is None else coverage.to_dict(),
            "tensors": [tensor.to_dict() for tensor in tensors],
            "layers": [layer.to_dict() for layer in layers],
        }
    )
    _print_verdict(verdict, matrix, printer)
    if coverage is not None:
        print_unreached(coverage, printer)
    printer.table(_layer_table(layers) if given.layers else _tensor_table(tensors))


def _without_entry(path: Path, matrix: ImportanceMatrix) -> list[str]:
    """Names of the tensors that can be quantized with importance, and have no entry that fits."""
    import apex

    plan = apex.plan(
        path, file_type="Q4_K_M", imatrix=matrix, allow_requantize=True, sizes_only=True
    )
    return [
        tensor.name
        for tensor in plan.tensors
        if tensor.layer is not None and not tensor.is_copied and tensor.importance is None
    ]


def _print_verdict(verdict: Verdict, matrix: ImportanceMatrix, printer: Printer) -> None:
    printer.paragraph(f"This importance matrix is {verdict.grade.value}:")
    for reason in verdict.reasons:
        printer.paragraph(f"- {reason}")
    if verdict.advice:
        printer.paragraph(f"To make it better, {verdict.advice}.")
    printer.line()
    form = "a .dat file" if matrix.is_legacy else "a GGUF file"
    chunks = f"{matrix.chunk_count} chunks" if matrix.chunk_count != 1 else "1 chunk"
    size = f" of {matrix.chunk_size} tokens" if matrix.chunk_size else ""
    printer.paragraph(f"{len(matrix.entries)} tensors in {form}, {chunks}{size}")
    if matrix.datasets:
        printer.paragraph("texts: " + ", ".join(matrix.datasets))
    printer.line()


def _layer_table(layers: tuple[LayerStatistics, ...]) -> Table:
    numbers = ("layer", "mean total", "outliers %", "similarity")
    table = Table("Averages per layer", numbers, numbers)
    for layer in layers:
        table.add(
            layer.layer,
            f"{layer.total:.2f}",
            f"{100 * layer.outliers:.2f}",
            f"{layer.similarity:.4f}",
        )
    return table


def _tensor_table(tensors: tuple[TensorStatistics, ...]) -> Table:
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
    return table


def print_unreached(coverage: Coverage, printer: Printer) -> None:
    """Which of the routed experts no token reached."""
    layers = list(coverage.unreached.items())
    for layer, experts in layers[:_SHOWN_LAYERS]:
        which = ", ".join(map(str, experts[:_SHOWN_LAYERS]))
        more = f" and {len(experts) - _SHOWN_LAYERS} more" if len(experts) > _SHOWN_LAYERS else ""
        noun = "expert" if len(experts) == 1 else "experts"
        printer.note(f"layer {layer}: no token reached {noun} {which}{more}")
    if len(layers) > _SHOWN_LAYERS:
        printer.note(f"{len(layers) - _SHOWN_LAYERS} more layers have such experts")
