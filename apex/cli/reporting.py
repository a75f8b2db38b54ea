"""``apex report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apex.cli import options, output

__all__ = ["report"]


def report(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULTS...", help="JSON files of apex eval -o.")
    ],
    out: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the files go.")
    ],
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Make plots (PNG) and one self-contained HTML page of results."""
    from apex.reporting import report as make

    paths = make(results, out, overwrite=overwrite)
    if not quiet:
        for path in paths:
            output.stdout().print(output.printable(f"wrote {path}"), soft_wrap=True)
