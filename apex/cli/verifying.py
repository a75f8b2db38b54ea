"""``apex verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from apex.cli import options, output
from apex.cli.progress import showing_progress
from apex.errors import DataError, ImatrixError

if TYPE_CHECKING:
    from apex import VerifyReport
    from apex.verification import RoleError, TensorError

__all__ = ["print_report", "verify"]

# ruff: noqa: UP045


def verify(
    quantized: Annotated[Path, typer.Argument(metavar="QUANTIZED", help="The file to check.")],
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="What it was made from.")],
    imatrix: Annotated[
        Optional[Path],
        typer.Option(
            metavar="FILE|auto",
            help="Weight the errors by an importance matrix; auto: the one beside SOURCE.",
        ),
    ] = None,
    threads: options.Threads = 0,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare a quantized model with its source, tensor by tensor.

    Errors are relative: 0 is equal, 1 is as far off as if all weights were zero. The status is 7
    if a weight is NaN or infinite.
    """
    import apex

    if options.is_automatic(imatrix):
        from apex.calibration.automatic import matrix_beside

        imatrix = matrix_beside(apex.open_model(source))
        if imatrix is None:
            raise ImatrixError(
                f"There is no importance matrix of {source} beside it.", "apex imatrix makes one"
            )
    with showing_progress("comparing", quiet) as advance:
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
    """A line per role, and with ``tensors`` one per tensor."""
    has_importance = any(tensor.weighted_rmse is not None for tensor in report.tensors)
    errors = ("RMSE", *(("weighted RMSE",) if has_importance else ()), "worst block")
    if tensors:
        numbers = (*errors, "row", "column")
        rows = output.table(
            "Error of every tensor, relative to the source", ("tensor", "type", *numbers), numbers
        )
        for tensor in report.tensors:
            where = (str(tensor.worst_row), str(tensor.worst_column))
            rows.add_row(tensor.name, tensor.type, *_errors(tensor, has_importance), *where)
        output.print_table(rows)
    rows = output.table(
        "Error relative to the source",
        ("role", "tensors", *errors, "in tensor"),
        ("tensors", *errors),
    )
    for role in report.by_role():
        cells = _errors(role, has_importance)
        rows.add_row(role.role.value, str(role.tensors), *cells, role.worst_tensor)
    output.print_table(rows)
    for text in report.notes:
        output.note(text)


def _errors(item: TensorError | RoleError, has_importance: bool) -> list[str]:
    """RMSE, weighted RMSE where any tensor has one, and the worst block."""
    weighted = "" if item.weighted_rmse is None else f"{item.weighted_rmse:.5f}"
    return [
        f"{item.rmse:.5f}",
        *([weighted] if has_importance else []),
        f"{item.worst_block:.5f}",
    ]
