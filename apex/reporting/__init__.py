"""Reports: plots and a page from the results of ``apex eval``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from apex.errors import OutputError
from apex.files import OutputSet
from apex.reporting.page import render_page
from apex.reporting.plots import draw
from apex.reporting.results import load_results

__all__ = ["report"]

PAGE = "index.html"


def report(
    results: Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> tuple[Path, ...]:
    """Write plots (PNG) and one self-contained page, ``index.html``, into a folder.

    results: JSON files of ``apex eval``. Returns the page and the plots.
    Raises UsageError for files that are no results, or without matplotlib; OutputError.
    """
    loaded = load_results(results)
    target = Path(folder)
    page = target / PAGE
    if page.exists() and not overwrite:
        raise OutputError(f"{page} exists.", "use --overwrite to replace it, or another folder")
    try:
        target.mkdir(parents=True, exist_ok=True)
        plots = draw(loaded.records, target)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror}.") from None
    with OutputSet([page]) as files:
        files.files[0].write(render_page(loaded, plots).encode())
        files.commit()
    return (page, *(plot.path for plot in plots))
