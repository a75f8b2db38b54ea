"""What a quantize command makes: one plan and one output for each tier, file type or plan file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apex.cli.fit_arguments import is_fit_tier
from apex.cli.fitted import Goal, fit_tier_goal, open_fitter
from apex.cli.judging import Settling, print_contest
from apex.cli.output import Printer
from apex.errors import UsageError

if TYPE_CHECKING:
    from apex import Plan
    from apex.cli.quantize_arguments import QuantizeArguments
    from apex.files import ImportanceMatrix
    from apex.fitting import Fitter
    from apex.planning import PlanOptions
    from apex.sources import Model

__all__ = ["Target", "Wanted", "leave_out_done", "plan_all", "wanted_of"]

_USE_FIT = "for example --size 16GiB, or --tier fit-mini"
_USE = "apex quantize MODEL OUT --tier i-quality, or -o FOLDER for several files"


@dataclass(frozen=True)
class Target:
    """One output.

    Attributes:
        options: of its plan.
        goal: what its types are fitted to, or None.
    """

    options: PlanOptions
    goal: Goal | None = None


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for.

    Attributes:
        model: the model.
        out: the output; None where outputs are named in ``folder``.
        folder: where the outputs go, or None.
        targets: of each plan to make.
        plan: a plan that was made before, in place of targets.
    """

    model: Path
    out: Path | None
    folder: Path | None
    targets: tuple[Target, ...]
    plan: Plan | None = None


def wanted_of(given: QuantizeArguments) -> Wanted:
    """Read the names and targets. Raises UsageError, PlanError."""
    if given.plan is not None:
        return _of_plan_file(given, given.plan)
    if given.model is None:
        raise UsageError("The model is missing.", _USE)
    if given.folder is None and given.out is None:
        raise UsageError("The name of the output is missing.", _USE)
    if given.folder is not None and given.out is not None:
        raise UsageError(
            f"{given.out} names one output, and -o {given.folder} names a folder for all.",
            "leave out one of the two",
        )
    given.check_targets(given.tier or (), given.file_type or (), _USE_FIT)
    given.check_judging()
    targets = [_tier_target(given, tier) for tier in _tiers(given.tier or ())]
    for file_type in given.file_type or ():
        chosen = given.options_for(None, file_type)
        if given.tier:  # the widths are for the tiers
            chosen.update({"edge_layers": None, "near_layers": None})
        targets.append(Target(chosen))
    if given.has_wish():
        targets.append(Target(given.options_for(None, None), Goal(given.wish())))
    if len(targets) > 1 and given.folder is None:
        raise UsageError(
            f"{len(targets)} tiers and file types do not go into one file.",
            "give a folder for one file each, with -o, or choose one of them",
        )
    if not targets:
        targets.append(Target(given.options_for(None, None)))
    return Wanted(given.model, given.out, given.folder, tuple(targets))


def _tier_target(given: QuantizeArguments, tier: str) -> Target:
    if is_fit_tier(tier):
        return Target(given.options_for(None, None), fit_tier_goal(tier))
    return Target(given.options_for(tier, None))


def _tiers(names: Sequence[str]) -> list[str]:
    from apex.policy import tiers

    every = [recipe.name for recipe in tiers()]
    chosen = [tier for name in names for tier in (every if name == "all" else [name])]
    return list(dict.fromkeys(chosen))


def _of_plan_file(given: QuantizeArguments, path: Path) -> Wanted:
    from apex.planning import load_plan

    if given.is_choosing():
        raise UsageError(
            "A plan is complete: no option can change what it makes.",
            "leave out the options for tiers, types, fits, importance and shards",
        )
    plan = load_plan(path)
    # With one name, it is the output's: the plan knows its model.
    model = given.model if given.out is not None else None
    out = given.out or given.model
    if (out is None) == (given.folder is None):
        raise UsageError(
            "The name of the output is missing."
            if out is None
            else f"{out} names one output, and -o {given.folder} names a folder.",
            f"apex quantize --plan {path} OUT",
        )
    return Wanted(model or plan.model.path, out, given.folder, (), plan)


def plan_all(
    given: QuantizeArguments,
    source: Model,
    wanted: Wanted,
    imatrix: Path | ImportanceMatrix | None,
    printer: Printer | None = None,
) -> dict[Path, Plan]:
    """The plan of every output, by its name.

    printer: where fits are measured and what comes of that is shown; without it, predictions
        decide what is written for them.
    """
    from apex.files import load_imatrix
    from apex.quantizing import output_name

    if wanted.plan is not None:
        plans = [wanted.plan]
    else:
        # Opened once for all plans.
        matrix = load_imatrix(imatrix) if isinstance(imatrix, Path) else imatrix
        plans = _plans(given, source, wanted, matrix, printer)
    if wanted.folder is None:
        assert wanted.out is not None
        return {wanted.out: plans[0]}
    result: dict[Path, Plan] = {}
    for plan in plans:
        path = wanted.folder / output_name(plan)
        if path in result:
            raise UsageError(f"{path} would be written twice.", "give every target once")
        result[path] = plan
    return result


def _plans(
    given: QuantizeArguments,
    source: Model,
    wanted: Wanted,
    matrix: ImportanceMatrix | None,
    printer: Printer | None,
) -> list[Plan]:
    import apex
    from apex.inference import RunOptions

    plans = []
    fitter: Fitter | None = None  # the options of all fits are the same
    settling: Settling | None = None
    for target in wanted.targets:
        options = with_matrix(target.options, matrix, joint=wanted.folder is not None)
        if target.goal is None:
            plans.append(apex.plan(source, **options))
            continue
        if fitter is None:
            fitter = open_fitter(given, source, options)
        found = fitter.fit(target.goal.wish, target.goal.name)
        if printer is None:
            plans.append(found.best)
            continue
        settling = settling or Settling(given, fitter, RunOptions(threads=given.threads), printer)
        _, best, result = settling.settle(found, target.goal)
        if result is not None:
            print_contest(result, printer)
        plans.append(best)
    return plans


def with_matrix(
    options: PlanOptions, matrix: ImportanceMatrix | None, *, joint: bool
) -> PlanOptions:
    """The options with the importance matrix; among several files, a plain tier goes without.

    It is then rounded as llama.cpp does.
    """
    from apex.policy import is_tier, load_recipe

    tier = options.get("tier")
    is_plain = tier is not None and is_tier(tier) and load_recipe(tier).importance == "none"
    if joint and is_plain:
        return {**options, "imatrix": None, "rounding": "reference", "second_moments": None}
    return {**options, "imatrix": matrix}


def leave_out_done(outputs: dict[Path, Plan]) -> tuple[dict[Path, Plan], list[Path]]:
    """The outputs that are still to be made, and those that are there and up to date."""
    from apex.quantizing import is_done

    done = [path for path, plan in outputs.items() if is_done(plan, path)]
    return {path: plan for path, plan in outputs.items() if path not in done}, done
