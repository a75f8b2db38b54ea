"""``apex plan`` and ``apex tiers``."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex.cli import output
from apex.cli.arguments import JsonArgument, OverwriteArgument, PlanArguments
from apex.cli.calibrating import planned_matrix
from apex.cli.output import Printer, Table
from apex.cli.values import is_automatic
from apex.errors import UsageError

if TYPE_CHECKING:
    from apex import ModelFile, Plan, Recipe
    from apex.planning import PlannedTensor, PlanOptions

__all__ = ["plan", "print_plan", "print_roles", "tiers"]


@dataclass(frozen=True, kw_only=True)
class ShowPlanArguments(JsonArgument, OverwriteArgument, PlanArguments):
    """What ``apex plan`` is given."""

    all_tiers: Annotated[
        bool, typer.Option("--all-tiers", help="Compare the sizes of all tiers.")
    ] = False
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the types as a file for llama-quantize."),
    ] = None


def plan(given: ShowPlanArguments) -> None:
    """Show what would be written: types, reasons and sizes. Reads headers only."""
    import apex

    printer = Printer(json=given.json)
    chosen = given.plan_options()
    if is_automatic(given.imatrix):
        chosen["imatrix"] = planned_matrix(given.model, printer)
    if given.all_tiers:
        if given.tier or given.file_type or given.export or given.tensors:
            raise UsageError(
                "--all-tiers goes without --tier, --type, --export and --tensors.", "leave them out"
            )
        _compare_tiers(apex.open_model(given.model), chosen, printer)
        return
    plan = apex.plan(given.model, **chosen)
    if given.export is not None:
        _export(plan, given.export, chosen, printer, overwrite=given.overwrite)
    printer.data(plan.to_dict)
    if given.tensors:
        _print_tensors(plan, printer)
    print_plan(plan, printer)


def print_plan(plan: Plan, printer: Printer) -> None:
    """The plan's tables on stdout and its notes on stderr."""
    what = plan.tier if plan.tier else plan.file_type
    print_roles(plan, f"{plan.model.path.name} as {what}, base {plan.file_type}", printer)
    _print_fallbacks(plan, printer)
    for text in plan.notes:
        printer.note(text)


def print_roles(plan: Plan, title: str, printer: Printer) -> None:
    """A line per role, the sums, and the size of the output."""
    numbers = ("tensors", "from MiB", "to MiB", "bits/weight")
    table = Table(title, ("role", "types", *numbers), numbers)
    for total in plan.by_role():
        table.add(
            total.role.value,
            ", ".join(total.types),
            total.tensors,
            output.mib(total.source_bytes),
            output.mib(total.bytes),
            f"{total.bits_per_weight:.2f}",
        )
    table.add_total(
        "all",
        "",
        len(plan.tensors),
        output.mib(plan.model.bytes),
        output.mib(plan.tensor_bytes),
        f"{plan.bits_per_weight:.2f}",
    )
    printer.table(table)
    files = f" in {len(plan.files)} files" if len(plan.files) > 1 else ""
    printer.line(f"output: {output.mib_and_gib(plan.file_bytes)}{files}")


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
        ("role", "columns", "asked for", "written", "tensors", "MiB more"),
        ("columns", "tensors", "MiB more"),
    )
    for (role, columns, wanted, written), tensors in groups.items():
        cost = sum(tensor.fallback_bytes for tensor in tensors)
        table.add(role, columns, wanted, written, len(tensors), output.mib(cost))
    printer.line()
    printer.table(table)


def _print_tensors(plan: Plan, printer: Printer) -> None:
    table = Table("", ("tensor", "shape", "from", "to", "MiB", "why"), ("MiB",))
    for tensor in plan.tensors:
        table.add(
            tensor.name,
            " x ".join(map(str, tensor.source.shape)),
            tensor.source.type,
            tensor.type,
            output.mib(tensor.bytes),
            tensor.reason,
        )
    printer.table(table)


def _export(
    plan: Plan, path: Path, chosen: PlanOptions, printer: Printer, *, overwrite: bool
) -> None:
    from apex.files import OutputSet, check_output
    from apex.planning import files_read

    text = plan.tensor_type_file()
    if not text.strip():
        raise UsageError("There is nothing to export: no tensor changes.", "choose a tier")
    check_output([path], (*plan.model.files, *files_read(chosen)), overwrite=overwrite)
    with OutputSet([path]) as output_set:
        output_set.files[0].write(text.encode())
        output_set.commit()
    imatrix = f"--imatrix {shlex.quote(plan.imatrix.path)} " if plan.imatrix else ""
    printer.say(
        f"wrote {path}; llama-quantize makes the same types with the base {plan.file_type}: "
        f"llama-quantize {imatrix}--tensor-type-file {shlex.quote(str(path))} "
        f"MODEL OUT {plan.file_type}"
    )


def _compare_tiers(model: ModelFile, chosen: PlanOptions, printer: Printer) -> None:
    import apex

    plans: list[tuple[Recipe, Plan]] = []
    for recipe in apex.tiers():
        tier_options: PlanOptions = {**chosen, "tier": recipe.name, "sizes_only": True}
        plans.append((recipe, apex.plan(model, **tier_options)))
    printer.data(lambda: [_tier_to_dict(recipe, plan) for recipe, plan in plans])
    numbers = ("MiB", "GiB", "bits/weight", "fallbacks")
    table = Table(
        f"{model.path.name}, {output.mib_and_gib(model.bytes)}, as every tier",
        ("tier", *numbers, "base", "imatrix"),
        numbers,
    )
    for recipe, plan in plans:
        table.add(
            recipe.name,
            output.mib(plan.file_bytes),
            f"{plan.file_bytes / 2**30:.2f}",
            f"{plan.bits_per_weight:.2f}",
            len(plan.fallbacks),
            recipe.base,
            "needed" if recipe.importance == "required" else "no",
        )
    printer.table(table)


def _tier_to_dict(recipe: Recipe, plan: Plan) -> dict[str, Any]:
    return {
        "tier": recipe.name,
        "base": recipe.base,
        "importance": recipe.importance,
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
    Printer().table(table)


def _zones(types: Iterable[str]) -> str:
    names = list(types)
    return names[0] if len(set(names)) == 1 else " / ".join(names)
