"""``apex fit``."""

from __future__ import annotations

import json as json_format
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex.cli import output
from apex.cli.arguments import (
    TIER,
    JsonArgument,
    ModelArgument,
    OverwriteArgument,
    TypesArguments,
)
from apex.cli.calibrating import planned_matrix
from apex.cli.fit_arguments import FIT, FitArguments, is_fit_tier
from apex.cli.fitted import Goal, fit_tier_goal, open_fitter
from apex.cli.judging import JudgeArguments, Settling, print_contest
from apex.cli.output import Printer, Table
from apex.cli.planning import export_types, print_plan, print_tensors
from apex.cli.stopping import ending
from apex.cli.values import is_automatic
from apex.errors import UsageError

if TYPE_CHECKING:
    from apex import Plan
    from apex.fitting import Fit, Fitter

__all__ = ["fit", "print_fit"]

_USE = "for example apex fit MODEL --size 16GiB, or --tier fit-mini, or --curve -o FOLDER"
# More bytes than any file has: the largest that can be chosen.
_EVERYTHING = 1 << 62


@dataclass(frozen=True, kw_only=True)
class FitCommandArguments(
    JsonArgument, OverwriteArgument, TypesArguments, JudgeArguments, FitArguments, ModelArgument
):
    """What ``apex fit`` is given."""

    tier: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="fit-quality, fit-compact, fit-mini or fit-nano: the size of their namesakes.",
            rich_help_panel=TIER,
        ),
    ] = None
    curve: Annotated[
        bool,
        typer.Option(
            "--curve",
            help="The best predicted loss at every size, as data, plot and page; with -o FOLDER "
            "or --json.",
            rich_help_panel=FIT,
        ),
    ] = False
    folder: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Where --curve writes frontier.json, frontier.png and frontier.html.",
            rich_help_panel=FIT,
        ),
    ] = None
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the types as a file for llama-quantize."),
    ] = None


def fit(given: FitCommandArguments) -> None:
    """Choose the type of every tensor for a size, a quality or a GPU, and show the plan.

    What the parts of the model cost was measured by apex measure. The fitted file and what could
    take its place are then compared by running the model, without writing any of them. apex
    quantize takes the same options, or the plan that --json prints.
    """
    import apex
    from apex.inference import RunOptions

    printer = Printer(json=given.json)
    given.check_judging()
    goal = _goal(given)
    options = given.options_for(None, None)
    source = apex.open_model(given.model)
    if is_automatic(given.imatrix):
        options["imatrix"] = planned_matrix(source, printer)
    fitter = open_fitter(given, source, options)
    if given.curve:
        _curve(given, fitter, printer)
        if goal is None or given.json:
            return
        printer.line()
    assert goal is not None
    settling = Settling(given, fitter, RunOptions(), printer)
    with ending("the curve is complete" if given.curve else "nothing was written"):
        found, best, result = settling.settle(fitter.fit(goal.wish, goal.name), goal)
    if given.export is not None:
        export_types(best, given.export, printer, overwrite=given.overwrite)
    taken = found.better_rival if result is None else result.winner
    measured = None if result is None else result.to_dict()
    data = {**found.described(taken), "measured": measured}
    printer.data(lambda: {**best.to_dict(), "fit": data})
    if given.tensors:
        print_tensors(best, printer)
    print_plan(best, printer)
    print_fit(found, best, printer)
    if result is not None:
        print_contest(result, printer)


def _goal(given: FitCommandArguments) -> Goal | None:
    """The wish; None where the curve alone is wanted. Raises UsageError."""
    tiers = [given.tier] if given.tier is not None else []
    if given.curve and given.folder is None and not given.json:
        raise UsageError(
            "The folder for the curve is missing.", "add -o FOLDER, or --json to print its data"
        )
    if given.tier is not None and not is_fit_tier(given.tier):
        raise UsageError(
            f"The types of {given.tier} are not fitted.",
            f"apex plan MODEL --tier {given.tier} shows them; --like {given.tier} fits types to "
            "its size",
        )
    if not given.curve:
        if not tiers and not given.has_wish():
            raise UsageError("The size or the quality that is wanted is missing.", _USE)
        if given.folder is not None:
            raise UsageError("-o is where --curve writes to.", "apex quantize writes models")
    elif not tiers and not given.has_wish():
        if given.export is not None or given.tensors:
            raise UsageError("--export and --tensors show the types of one size.", "add --size")
        given.refuse_without_vram()
        return None
    given.check_targets(tiers, [], _USE)
    return fit_tier_goal(tiers[0]) if tiers else Goal(given.wish())


def print_fit(found: Fit, best: Plan, printer: Printer) -> None:
    """What is predicted, beside what else has this size, and how much of it is used."""
    table = Table(
        "Predicted",
        ("file", "size", "KL divergence"),
        ("size", "KL divergence"),
    )
    name = found.plan.tier or "fit"
    table.add(f"{name}, fitted", output.size(found.plan.file_bytes), _nats(found.predicted))
    for kind in ("tier", "file type"):
        rival = found.beside(kind)
        if rival is not None:
            loss = _nats(found.kl(rival.loss))
            table.add(f"{rival.name}, {kind}", output.size(rival.plan.file_bytes), loss)
    printer.line()
    printer.table(table)
    if found.predicted is not None and found.bound is not None:
        gap = found.predicted - found.bound
        share = f" ({gap / found.predicted:.2%})" if found.predicted else ""
        printer.line(
            f"the best choice of types for this size is predicted to be at most {gap:.2g}{share} "
            "better"
        )
    if found.budget is not None:
        used = best.file_bytes
        printer.line(f"asked for {found.budget:,} bytes, used {used:,} ({used / found.budget:.3%})")
    room = found.room
    if room is not None:
        printer.line(
            f"GPU: weights {output.size(found.gpu_bytes(best))} of "
            f"{output.size(room.weights)} that are left beside {output.size(room.cache)} of cache "
            f"and {output.size(room.compute)} of compute buffers"
        )


def _nats(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def _curve(given: FitCommandArguments, fitter: Fitter, printer: Printer) -> None:
    from apex.fitting import Wish, curve

    found = fitter.fit(Wish(size=_EVERYTHING))
    data = curve(found, fitter.source)
    if given.folder is not None:
        _write(given, data, found.plan.inputs, printer)
    printer.data(lambda: data)
    table = Table(
        f"{fitter.source.path.name} at every size",
        ("file", "size", "predicted KL divergence"),
        ("size", "predicted KL divergence"),
    )
    points = [("smallest", data["start"]["bytes"], data["start"]["kl"])]
    points += [("knee", *data["steps"][knee][2:]) for knee in data["knees"]]
    points += [("largest", *data["steps"][-1][2:])] if data["steps"] else []
    for name, size, kl in points:
        table.add(name, output.size(size), _nats(kl))
    printer.table(table)


def _write(
    given: FitCommandArguments, data: Mapping[str, Any], inputs: tuple[str, ...], printer: Printer
) -> None:
    from importlib.util import find_spec

    from apex.files import OutputSet, check_output
    from apex.reporting import frontier_page, frontier_plot

    assert given.folder is not None
    contents = {
        "frontier.json": (json_format.dumps(data, allow_nan=False) + "\n").encode(),
        "frontier.html": frontier_page(data).encode(),
    }
    if find_spec("matplotlib") is None:
        printer.note("frontier.png is left out: matplotlib is not installed")
    else:
        contents["frontier.png"] = frontier_plot(data).png
    paths = [given.folder / name for name in contents]
    check_output(paths, inputs, overwrite=given.overwrite)
    with OutputSet(paths) as files:
        for file, content in zip(files.files, contents.values(), strict=True):
            file.write(content)
        files.commit()
    for path in paths:
        printer.say(f"wrote {path}")
