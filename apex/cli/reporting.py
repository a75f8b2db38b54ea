"""``apex report``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from apex.cli.arguments import OverwriteArgument, QuietArgument
from apex.cli.output import Printer
from apex.cli.stopping import ending

__all__ = ["report"]


@dataclass(frozen=True, kw_only=True)
class ReportArguments(QuietArgument, OverwriteArgument):
    """What ``apex report`` is given."""

    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULTS...", help="JSON files of apex eval -o, and of apex fit --curve."
        ),
    ]
    out: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the files go.")
    ]


def report(given: ReportArguments) -> None:
    """Make a report of results: one self-contained page (HTML), Markdown, CSV and plots (PNG)."""
    from apex.reporting import report as make

    printer = Printer(quiet=given.quiet)
    with ending("nothing was left behind"):
        paths = make(given.results, given.out, overwrite=given.overwrite)
    for path in paths:
        printer.line(f"wrote {path}")
