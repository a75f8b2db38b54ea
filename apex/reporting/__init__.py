"""Reports: tables and plots from results, and what is drawn of a frontier and of sensitivities."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from apex.files import OutputSet, check_output
from apex.reporting.frontier import split_frontiers, with_measured
from apex.reporting.frontier_html import frontier_page
from apex.reporting.frontier_png import frontier_plot
from apex.reporting.heat import HeatCell, heat_map
from apex.reporting.loading import load_results
from apex.reporting.markdown import render_csv, render_markdown
from apex.reporting.page import render_page
from apex.reporting.plots import draw
from apex.reporting.results import Results
from apex.reporting.tables import sections

__all__ = ["HeatCell", "frontier_page", "frontier_plot", "heat_map", "report"]

_PAGE, _MARKDOWN, _CSV = "index.html", "report.md", "results.csv"

# A title of more characters counts the models instead of naming them.
_TITLE_LENGTH = 80


def report(
    results: Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> tuple[Path, ...]:
    """Write a report into a folder: all of its files, or none of them.

    The files: one self-contained page, ``index.html``; the same tables as ``report.md``; all
    numbers as ``results.csv``; the plots (PNG).

    results: JSON files of ``apex eval``. One of them may be the frontier.json of ``apex fit
        --curve``: it is drawn with the files that were measured, and gets a page of its own,
        ``frontier.html``.

    Returns the paths, the page first.
    Raises UsageError for files that do not hold results, or without matplotlib; OutputError.
    """
    target = Path(folder)
    # Here what can be known before anything is drawn; the names of the plots come later.
    check_output([target / name for name in (_PAGE, _MARKDOWN, _CSV)], results, overwrite=overwrite)
    evaluations, frontier = split_frontiers(results)
    loaded = load_results(evaluations)
    title, summary, parts = _title(loaded), _summary(loaded), sections(loaded)
    plots = draw(loaded)
    if frontier is not None:
        frontier = with_measured(frontier, loaded)
        plots.append(frontier_plot(frontier))
    contents = {
        _PAGE: render_page(title, summary, loaded, parts, plots).encode(),
        _MARKDOWN: render_markdown(title, summary, loaded.notes, parts, plots).encode(),
        _CSV: render_csv(loaded).encode(),
        **{f"{plot.name}.png": plot.png for plot in plots},
    }
    if frontier is not None:
        contents["frontier.html"] = frontier_page(frontier).encode()
    paths = tuple(target / name for name in contents)
    check_output(paths, results, overwrite=overwrite)
    with OutputSet(paths) as files:
        for file, content in zip(files.files, contents.values(), strict=True):
            file.write(content)
        files.commit()
    return paths


def _title(results: Results) -> str:
    """Names what was measured, so that the tabs of several reports can be told apart."""
    compared = [model.label for model in results.models if not model.is_reference]
    references = [model.label for model in results.models if model.is_reference]
    names = compared or references
    against = f" compared with {_listed(references)}" if compared and references else ""
    text = _listed(names) + against
    if len(names) > 1 and len(text) > _TITLE_LENGTH:
        return f"{len(names)} models{against}"
    return text


def _listed(names: Sequence[str]) -> str:
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]


def _summary(results: Results) -> str:
    count = len(results.models)
    text = f"{count} models" if count > 1 else "1 model"
    if any(model.is_reference for model in results.models):
        text += ", the reference included"
    names = sorted({result.setting.text for result in results.texts})
    if names:
        text += f"; {'texts' if len(names) > 1 else 'text'}: {', '.join(names)}"
    return f"An evaluation by apex. {text}."
