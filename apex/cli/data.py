"""``apex data``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex.cli.arguments import JsonArgument, OverwriteArgument, QuietArgument
from apex.cli.output import Printer, Table
from apex.cli.progress import showing_stages

if TYPE_CHECKING:
    from apex.evaluation.data_sets import FoundSet

__all__ = ["data"]


@dataclass(frozen=True, kw_only=True)
class DataArguments(QuietArgument, JsonArgument, OverwriteArgument):
    """What ``apex data`` is given."""

    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...|all]", help="Which data sets to fetch.")
    ] = None
    folder: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FOLDER", help="Where they go, or are."),
    ] = Path("eval-data")


def data(given: DataArguments) -> None:
    """Fetch the usual texts and tasks for apex eval, or list them.

    Each is pinned to a commit and has a checksum. What is in the folder already, also if it was put
    there by hand, is checked instead.
    """
    from apex.evaluation.data_sets import DATA_SETS, fetch_data_set, find_data_set

    printer = Printer(quiet=given.quiet, json=given.json)
    names = given.names or []
    if not names:
        printer.data(lambda: [_known(data_set) for data_set in DATA_SETS])
        _print_known(printer)
        return
    named = dict.fromkeys(find_data_set(name) for name in names if name != "all")
    wanted = DATA_SETS if "all" in names else tuple(named)
    found: list[FoundSet] = []
    with showing_stages(printer) as stage:
        for each in wanted:
            stage("data sets", len(found), len(wanted), each.name)
            found.append(fetch_data_set(each, given.folder, overwrite=given.overwrite))
        stage("data sets", len(found), len(wanted), "")
    _print_found(found, printer)


def _print_known(printer: Printer) -> None:
    from apex.evaluation.data_sets import DATA_SETS

    table = Table("Data sets", ("name", "apex eval", "file", "what"))
    for each in DATA_SETS:
        table.add(each.name, each.option, each.file, each.about)
    printer.table(table)
    printer.line("apex data NAME… or apex data all fetches them; --json tells from where.")


def _print_found(found: list[FoundSet], printer: Printer) -> None:
    printer.data(lambda: [_said(each) for each in found])
    table = Table("Data sets", ("name", "tasks", "SHA-256", "apex eval"), ("tasks",))
    for each in found:
        tasks = "" if each.tasks is None else each.tasks
        use = f"{each.data_set.option} {each.path}"
        table.add(each.data_set.name, tasks, f"{each.sha256[:12]}…", use)
    printer.table(table)
    for each in found:
        if not each.was_compared:
            printer.note(
                f"{each.path} was put there by hand, and its checksum is not known here; it is "
                "recorded in SHA256SUMS, and compared from now on"
            )


def _known(data_set: Any) -> dict[str, Any]:
    names = ("name", "kind", "file", "sha256", "member", "about")
    return {**{name: getattr(data_set, name) for name in names}, "url": data_set.url}


def _said(found: FoundSet) -> dict[str, Any]:
    return {
        **_known(found.data_set),
        "path": str(found.path),
        "sha256": found.sha256,
        "tasks": found.tasks,
        "fetched": found.was_fetched,
        "compared": found.was_compared,
    }
