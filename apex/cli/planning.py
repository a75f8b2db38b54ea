"""``apex plan`` and ``apex tiers``."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex.cli import output
from apex.cli.arguments import JsonArgument, OverwriteArgument, PlanArguments
from apex.cli.calibrating import planned_matrix
from apex.cli.fit_arguments import ChoiceArguments, is_fit_tier
from apex.cli.fitted import fit_tier_goal, open_fitter
from apex.cli.output import Printer, Table
from apex.cli.values import is_automatic
from apex.errors import ImatrixError, PlanError, SensitivityError, UsageError

if TYPE_CHECKING:
    from apex import Plan, Recipe
    from apex.planning import PlannedTensor, PlanOptions
    from apex.sources import Model

__all__ = [
    "export_types",
    "plan",
    "print_plan",
    "print_roles",
    "print_tensors",
    "rounding_words",
    "tiers",
]


@dataclass(frozen=True, kw_only=True)
class ShowPlanArguments(JsonArgument, OverwriteArgument, ChoiceArguments, PlanArguments):
    """What ``apex plan`` is given."""

    all_tiers: Annotated[
        bool,
        typer.Option(
            "--all-tiers", help="Compare the sizes of all tiers, the default without a tier."
        ),
    ] = False
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the types as a file for llama-quantize."),
    ] = None


def plan(given: ShowPlanArguments) -> None:
    """Show what would be written: types, reasons and sizes. Reads headers only.

    Without a tier or a file type, the sizes of all tiers are compared.
    """
    from apex.sources import open_source, require_file

    printer = Printer(json=given.json)
    if not is_fit_tier(given.tier) and not _is_of_all_tiers(given):
        given.refuse_without_wish("add --tier fit-mini, or use apex fit")
    chosen = given.plan_options()
    source = open_source(given.model)
    if is_automatic(given.imatrix):
        chosen["imatrix"] = planned_matrix(require_file(source), printer)
    if _is_of_all_tiers(given):
        _compare_tiers(given, source, chosen, printer)
        return
    plan = _plan_or_sizes(given, source, chosen, printer)
    if given.export is not None:
        export_types(plan, given.export, printer, overwrite=given.overwrite)
    printer.data(plan.to_dict)
    if given.tensors:
        print_tensors(plan, printer)
    print_plan(plan, printer)


def _is_of_all_tiers(given: ShowPlanArguments) -> bool:
    """Whether tiers are compared: that is asked for, or no tier is named. Raises UsageError."""
    is_one = given.tier is not None or given.file_type is not None
    is_detailed = given.export is not None or given.tensors
    if given.all_tiers and (is_one or is_detailed):
        raise UsageError(
            "--all-tiers cannot be combined with --tier, --type, --export or --tensors.",
            "leave those out, or leave out --all-tiers",
        )
    if is_detailed and not is_one:
        raise UsageError(
            "--export and --tensors show the plan of one tier or file type.",
            "add --tier NAME (apex tiers lists them) or --type TYPE",
        )
    return not is_one


def _plan_or_sizes(
    given: ShowPlanArguments, source: Model, chosen: PlanOptions, printer: Printer
) -> Plan:
    """The plan; without an importance matrix that it needs, one that only shows the sizes."""
    try:
        return _plan_of(given, source, chosen)
    except ImatrixError as error:
        if given.imatrix is not None or given.export is not None:
            raise
        plan = _plan_of(given, source, {**chosen, "sizes_only": True})
        printer.note(
            f"{error.message} The sizes are right without one, but quantize needs it: "
            "--imatrix FILE, or --imatrix auto to make one."
        )
        return plan


def _plan_of(given: ShowPlanArguments, source: Model, chosen: PlanOptions) -> Plan:
    import apex

    if given.tier is None or not is_fit_tier(given.tier):
        return apex.plan(source, **chosen)
    if given.file_type is not None:
        raise UsageError("A tier and a file type are given.", "give one or the other")
    goal = fit_tier_goal(given.tier)
    options: PlanOptions = {**chosen, "tier": None}
    fitter = open_fitter(given, source, options)
    return fitter.fit(goal.wish, goal.name).best


def print_plan(plan: Plan, printer: Printer) -> None:
    """The plan's tables on stdout and its notes on stderr."""
    what = plan.tier if plan.tier else plan.file_type
    base = f", base {plan.file_type}" if plan.tier else ""
    print_roles(plan, f"{plan.model.path.name} as {what}{base}{rounding_words(plan)}", printer)
    _print_fallbacks(plan, printer)
    for text in plan.notes:
        printer.note(text)


def rounding_words(plan: Plan) -> str:
    """How the weights become levels, where that is not as llama.cpp does."""
    return "" if plan.rounding == "reference" else f", {plan.rounding}"


def print_roles(plan: Plan, title: str, printer: Printer) -> None:
    """A line per role, the sums, and the size of the output."""
    numbers = ("tensors", "from", "to", "bits/weight")
    table = Table(title, ("role", "types", *numbers), numbers)
    for total in plan.by_role():
        table.add(
            total.role.value,
            ", ".join(total.types),
            total.tensors,
            output.size(total.source_bytes),
            output.size(total.bytes),
            f"{total.bits_per_weight:.2f}",
        )
    table.add_total(
        "all",
        "",
        len(plan.tensors),
        output.size(plan.model.bytes),
        output.size(plan.tensor_bytes),
        f"{plan.bits_per_weight:.2f}",
    )
    printer.table(table)
    files = f" in {len(plan.files)} files" if len(plan.files) > 1 else ""
    printer.line(f"output: {output.size(plan.file_bytes)}{files}")


def _print_fallbacks(plan: Plan, printer: Printer) -> None:
    """Which types the rows' lengths forced, and what that costs."""
    groups: dict[tuple[str, int, str, str], list[PlannedTensor]] = defaultdict(list)
    for tensor in plan.fallbacks:
        key = (tensor.role.value, tensor.source.columns, tensor.wanted, tensor.type)
        groups[key].append(tensor)
    if not groups:
        return
    table = Table(
        "Fallbacks: rows that do not divide into whole blocks of the type asked for",
        ("role", "columns", "asked for", "written", "tensors", "costs"),
        ("columns", "tensors", "costs"),
    )
    for (role, columns, wanted, written), tensors in groups.items():
        cost = sum(tensor.fallback_bytes for tensor in tensors)
        table.add(role, columns, wanted, written, len(tensors), output.size(cost))
    printer.line()
    printer.table(table)


def print_tensors(plan: Plan, printer: Printer) -> None:
    """A line per tensor."""
    table = Table("", ("tensor", "shape", "from", "to", "size", "why"), ("size",))
    for tensor in plan.tensors:
        table.add(
            tensor.name,
            " x ".join(map(str, tensor.source.shape)),
            tensor.source.type,
            tensor.type,
            output.size(tensor.bytes),
            tensor.reason,
        )
    printer.table(table)


def export_types(plan: Plan, path: Path, printer: Printer, *, overwrite: bool) -> None:
    """Write the types as a file for llama-quantize. Raises UsageError, OutputError."""
    from apex.files import OutputSet, check_output

    text = plan.tensor_type_file()
    if not text.strip():
        raise UsageError("There is nothing to export: no tensor changes.", "choose a tier")
    check_output([path], plan.inputs, overwrite=overwrite)
    with OutputSet([path]) as output_set:
        output_set.files[0].write(text.encode())
        output_set.commit()
    imatrix = f"--imatrix {shlex.quote(plan.imatrix.path)} " if plan.imatrix else ""
    printer.say(
        f"wrote {path}; llama-quantize makes the same types with the base {plan.file_type}: "
        f"llama-quantize {imatrix}--tensor-type-file {shlex.quote(str(path))} "
        f"MODEL OUT {plan.file_type}"
    )


def _compare_tiers(
    given: ShowPlanArguments, model: Model, chosen: PlanOptions, printer: Printer
) -> None:
    import apex

    plans: list[tuple[Recipe, Plan]] = []
    for recipe in apex.tiers():
        tier_options: PlanOptions = {**chosen, "tier": recipe.name, "sizes_only": True}
        plans.append((recipe, apex.plan(model, **tier_options)))
    fitted = _fit_tiers(given, model, chosen, printer)
    rows = [_tier_to_dict(plan, recipe.base, recipe.importance) for recipe, plan in plans]
    rows += [_tier_to_dict(plan, plan.file_type, "required") for plan in fitted]
    printer.data(lambda: rows)
    numbers = ("size", "bits/weight", "fallbacks")
    table = Table(
        f"{model.path.name}, {output.size(model.bytes)}, as every tier",
        ("tier", *numbers, "base", "imatrix"),
        numbers,
    )
    for row in rows:
        table.add(
            row["tier"],
            output.size(row["file_bytes"]),
            f"{row['bits_per_weight']:.2f}",
            row["fallbacks"],
            row["base"],
            "needed" if row["importance"] == "required" else "no",
        )
    printer.table(table)
    for text in _notes_of_several(plans):
        printer.note(text)


def _fit_tiers(
    given: ShowPlanArguments, model: Model, chosen: PlanOptions, printer: Printer
) -> list[Plan]:
    """The plans of the fitted tiers, where what they need is given or beside the model."""
    from apex.sources import ModelFile

    # Without importing what knows of sensitivities, which takes longer than all plans.
    is_measured = isinstance(model, ModelFile) and model.beside(".sensitivity.json").exists()
    if given.pure or (given.sensitivity is None and not is_measured):
        given.refuse_without_wish("measure the model first: apex measure MODEL")
        return []
    from apex.fitting import FIT_TIERS

    try:
        fitter = open_fitter(given, model, {**chosen, "sizes_only": True})
        goals = [fit_tier_goal(name) for name in FIT_TIERS]
        return [fitter.fit(goal.wish, goal.name, compare=False).plan for goal in goals]
    except (PlanError, SensitivityError) as error:
        if given.sensitivity is not None:
            raise
        printer.note(f"the fitted tiers are left out: {error.message}")
        return []


def _notes_of_several(plans: Sequence[tuple[Recipe, Plan]]) -> list[str]:
    """What more than one tier has to say, such as that the model is too short for a middle."""
    tiers: dict[str, set[str]] = {}
    for recipe, plan in plans:
        for text in plan.notes:
            tiers.setdefault(text, set()).add(recipe.name.removeprefix("i-"))
    return [text for text, names in tiers.items() if len(names) > 1]


def _tier_to_dict(plan: Plan, base: str, importance: str) -> dict[str, Any]:
    return {
        "tier": plan.tier,
        "base": base,
        "importance": importance,
        "tensor_bytes": plan.tensor_bytes,
        "file_bytes": plan.file_bytes,
        "bits_per_weight": plan.bits_per_weight,
        "fallbacks": len(plan.fallbacks),
    }


@dataclass(frozen=True, kw_only=True)
class TiersArguments:
    """What ``apex tiers`` is given."""

    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show this tier's recipe.")] = (
        None
    )


def tiers(given: TiersArguments) -> None:
    """List the tiers, or print one as a recipe to start your own from."""
    from apex.policy import Role, recipe_text
    from apex.policy import tiers as all_tiers

    if is_fit_tier(given.name):
        raise UsageError(
            f"The tier {given.name} has no recipe: its types are chosen for each model.",
            f"apex fit MODEL --tier {given.name} shows them",
        )
    if given.name is not None:
        typer.echo(recipe_text(given.name), nl=False)
        return
    table = Table(
        "Types per role; edge / near / middle for routed experts, edge / rest for the others",
        ("tier", "routed experts", "shared, dense", "attention, ssm", "mtp", "base", "imatrix"),
    )
    for recipe in all_tiers():
        cells = [
            _zones(recipe.types[role].values())
            for role in (Role.ROUTED, Role.SHARED, Role.ATTENTION, Role.MTP)
        ]
        needed = "needed" if recipe.importance == "required" else "no"
        table.add(recipe.name, *cells, recipe.base, needed)
    printer = Printer()
    printer.table(table)
    printer.line(
        "For a model that apex measure has measured, fit-quality, fit-compact, fit-mini and "
        "fit-nano fit the types to the sizes of i-quality, i-compact, mini and nano."
    )


def _zones(types: Iterable[str]) -> str:
    names = list(types)
    return names[0] if len(set(names)) == 1 else " / ".join(names)
