"""``apex verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apex.cli import options, output
from apex.cli.progress import showing_progress
from apex.errors import DataError

if TYPE_CHECKING:
    from apex import VerifyReport

__all__ = ["print_report", "verify"]


def verify(
    quantized: Annotated[Path, typer.Argument(metavar="QUANTIZED", help="The file to check.")],
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="What it was made from.")],
    imatrix: options.Imatrix = None,
    threads: Annotated[
        int, typer.Option("--threads", "-t", min=0, metavar="N", help="0 for all.")
    ] = 0,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    json: options.Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")] = False,
) -> None:
    """Compare a quantized model with its source, tensor by tensor.

    Errors are relative: 0 is equal, 1 is as far off as if all weights were zero. The status is 7
    if a weight is NaN or infinite.

    Example: apex verify out.gguf model.gguf --imatrix imatrix.gguf
    """
    import apex

    with showing_progress(f"comparing {quantized.name}", quiet) as advance:
        report = apex.verify(
            quantized,
            source,
            imatrix=imatrix,
            threads=threads,
            progress=lambda done, total: advance(done, total, ""),
        )
    if json:
        output.print_json(report.to_dict())
    elif not quiet:
        print_report(report, tensors=tensors)
    if report.bad_values:
        raise DataError(
            f"{quantized} holds {report.bad_values} weights that are NaN or infinite.",
            "quantize it again",
        )


def print_report(report: VerifyReport, *, tensors: bool) -> None:
    """A line per role, or per tensor."""
    numbers = ("tensors", "RMSE", "weighted RMSE", "worst block")
    if tensors:
        rows = output.table("", ("tensor", "type", *numbers[1:], "row", "column"), numbers)
        for tensor in report.tensors:
            rows.add_row(
                tensor.name,
                tensor.type,
                f"{tensor.rmse:.5f}",
                "" if tensor.weighted_rmse is None else f"{tensor.weighted_rmse:.5f}",
                f"{tensor.worst_block:.5f}",
                str(tensor.worst_row),
                str(tensor.worst_column),
            )
        output.print_table(rows)
    rows = output.table("Error relative to the source", ("role", *numbers, "in tensor"), numbers)
    for role in report.by_role():
        rows.add_row(
            role.role.value,
            str(role.tensors),
            f"{role.rmse:.5f}",
            "" if role.weighted_rmse is None else f"{role.weighted_rmse:.5f}",
            f"{role.worst_block:.5f}",
            role.worst_tensor,
        )
    output.print_table(rows)
    for text in report.notes:
        output.note(text)
