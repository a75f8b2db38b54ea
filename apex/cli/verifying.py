"""``apex verify``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apex.cli.arguments import ANY_MODEL, JsonArgument, QuietArgument, ThreadsArgument
from apex.cli.calibrating import usable_matrix
from apex.cli.converting import fetch
from apex.cli.output import Printer, Table
from apex.cli.progress import showing_progress
from apex.cli.values import is_automatic
from apex.errors import DataError, ImatrixError

if TYPE_CHECKING:
    from apex import VerifyReport
    from apex.sources import Source
    from apex.verification import RoleError, TensorError

__all__ = ["compare", "print_report", "require_sound", "verify"]


@dataclass(frozen=True, kw_only=True)
class VerifyArguments(QuietArgument, JsonArgument, ThreadsArgument):
    """What ``apex verify`` is given."""

    quantized: Annotated[Path, typer.Argument(metavar="QUANTIZED", help="The file to check.")]
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help=f"What it was made from. {ANY_MODEL}")
    ]
    imatrix: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|auto",
            help="Weight the errors by an importance matrix; auto: the one beside SOURCE.",
        ),
    ] = None
    second_moments: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also show how far the outputs of the tensors are off, over the text that these "
            "second moments were collected from.",
        ),
    ] = None
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False


def verify(given: VerifyArguments) -> None:
    """Compare a quantized model with its source, tensor by tensor.

    Errors are relative: 0 is equal, 1 is as far off as if all weights were zero. The exit status
    is 7 if a weight is NaN or infinite.
    """
    import apex

    printer = Printer(quiet=given.quiet, json=given.json)
    imatrix = given.imatrix
    if is_automatic(imatrix):
        imatrix = usable_matrix(apex.open_model(given.source), None, printer)
        if imatrix is None:
            raise ImatrixError(
                f"There is no importance matrix of {given.source} beside it.",
                "apex imatrix makes one",
            )
    report = compare(
        given.quantized, given.source, imatrix, given.second_moments, given.threads, printer
    )
    printer.data(report.to_dict)
    print_report(report, printer, tensors=given.tensors)
    require_sound(report, given.quantized)


def compare(
    quantized: Path,
    source: Path | Source,
    imatrix: Path | None,
    second_moments: Path | None,
    threads: int,
    printer: Printer,
) -> VerifyReport:
    """Compare a quantized model with its source, and show how far that is."""
    import apex
    from apex.sources import open_source

    if isinstance(source, Path):
        source = open_source(source)
    fetch(source, printer)
    with showing_progress("comparing", printer) as advance:
        return apex.verify(
            quantized,
            source,
            imatrix=imatrix,
            second_moments=second_moments,
            threads=threads,
            progress=lambda done, total: advance(done, total, ""),
        )


def require_sound(report: VerifyReport, quantized: Path) -> None:
    """Raise DataError if a weight is NaN or infinite."""
    if report.bad_values:
        weights = "weight that is" if report.bad_values == 1 else "weights that are"
        raise DataError(
            f"{quantized} holds {report.bad_values} {weights} NaN or infinite.",
            "quantize it again",
        )


def print_report(report: VerifyReport, printer: Printer, *, tensors: bool) -> None:
    """A line per role, and with ``tensors`` one per tensor."""
    columns = _columns(report)
    errors = tuple(columns)
    if tensors:
        numbers = (*errors, "row", "column")
        table = Table(
            "Error of every tensor, relative to the source", ("tensor", "type", *numbers), numbers
        )
        for tensor in report.tensors:
            where = (str(tensor.worst_row), str(tensor.worst_column))
            table.add(tensor.name, tensor.type, *_errors(tensor, columns), *where)
        printer.table(table)
    table = Table(
        "Error relative to the source",
        ("role", "tensors", *errors, "in tensor"),
        ("tensors", *errors),
    )
    for role in report.by_role():
        cells = _errors(role, columns)
        table.add(role.role.value, role.tensors, *cells, role.worst_tensor)
    printer.table(table)
    if report.output_rmse is not None:
        printer.line(f"output RMSE of all tensors with second moments: {report.output_rmse:.5f}")
    if report.rounding != "reference":
        printer.line(f"rounding: {report.rounding}")
    for text in report.notes:
        printer.note(text)


def _columns(report: VerifyReport) -> dict[str, str]:
    """Heading and attribute of the errors that any tensor has."""
    columns = {
        "RMSE": "rmse",
        "weighted RMSE": "weighted_rmse",
        "output RMSE": "output_rmse",
        "worst block": "worst_block",
    }
    return {
        heading: name
        for heading, name in columns.items()
        if any(getattr(tensor, name) is not None for tensor in report.tensors)
    }


def _errors(item: TensorError | RoleError, columns: dict[str, str]) -> list[str]:
    values = (getattr(item, name) for name in columns.values())
    return ["" if value is None else f"{value:.5f}" for value in values]
