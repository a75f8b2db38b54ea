"""``apex plan`` and ``apex tiers``."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from apex.cli import options, output
from apex.cli.calibrating import planned_matrix
from apex.errors import UsageError

if TYPE_CHECKING:
    from apex import ModelFile, Plan, Recipe
    from apex.planning import PlannedTensor, PlanOptions

__all__ = ["plan", "print_plan", "print_roles", "tiers"]

# ruff: noqa: UP045


def plan(
    context: typer.Context,
    model: options.Model,
    tier: options.Tier = None,
    file_type: options.FileType = None,
    imatrix: options.Imatrix = None,
    edge_layers: options.EdgeLayers = None,
    near_layers: options.NearLayers = None,
    strict: options.Strict = False,
    tensor_type: options.TensorType = None,
    tensor_type_file: options.TensorTypeFile = None,
    output_tensor_type: options.OutputTensorType = None,
    token_embedding_type: options.TokenEmbeddingType = None,
    pure: options.Pure = False,
    leave_output_tensor: options.LeaveOutputTensor = False,
    allow_requantize: options.AllowRequantize = False,
    override_kv: options.OverrideKv = None,
    keep_split: options.KeepSplit = False,
    split_max_size: options.SplitMaxSize = None,
    all_tiers: Annotated[
        bool, typer.Option("--all-tiers", help="Compare the sizes of all tiers.")
    ] = False,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    export: Annotated[
        Optional[Path],
        typer.Option(metavar="FILE", help="Write the types as a file for llama-quantize."),
    ] = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Show what would be written: types, reasons and sizes. Reads headers only."""
    import apex

    chosen = options.plan_options(context)
    if options.is_automatic(imatrix):
        chosen["imatrix"] = planned_matrix(model)
    if all_tiers:
        if tier or file_type or export or tensors:
            raise UsageError(
                "--all-tiers goes without --tier, --type, --export and --tensors.", "leave them out"
            )
        _compare_tiers(apex.open_model(model), chosen, json)
        return
    todo = apex.plan(model, **chosen)
    if export is not None:
        _export(todo, export, chosen, overwrite)
    if json:
        output.print_json(todo.to_dict())
        return
    if tensors:
        _print_tensors(todo)
    print_plan(todo)


def print_plan(todo: Plan) -> None:
    """The plan's tables on stdout and its notes on stderr."""
    what = todo.tier if todo.tier else todo.file_type
    print_roles(todo, f"{todo.model.path.name} as {what}, base {todo.file_type}")
    _print_fallbacks(todo)
    for text in todo.notes:
        output.note(text)


def print_roles(todo: Plan, title: str) -> None:
    """A line per role, the sums, and the size of the output."""
    numbers = ("tensors", "from MiB", "to MiB", "bits/weight")
    rows = output.table(title, ("role", "types", *numbers), numbers)
    for total in todo.by_role():
        rows.add_row(
            total.role.value,
            ", ".join(total.types),
            str(total.tensors),
            output.mib(total.source_bytes),
            output.mib(total.bytes),
            f"{total.bits_per_weight:.2f}",
        )
    rows.add_row(
        "all",
        "",
        str(len(todo.tensors)),
        output.mib(todo.model.bytes),
        output.mib(todo.tensor_bytes),
        f"{todo.bits_per_weight:.2f}",
        style="bold",
    )
    output.print_table(rows)
    files = f" in {len(todo.files)} files" if len(todo.files) > 1 else ""
    output.stdout().print(f"output: {output.mib_and_gib(todo.file_bytes)}{files}")


def _print_fallbacks(todo: Plan) -> None:
    """Which types the rows' lengths forced, and what that costs."""
    groups: dict[tuple[str, int, str, str], list[PlannedTensor]] = defaultdict(list)
    for tensor in todo.fallbacks:
        key = (tensor.role.value, tensor.source.columns, tensor.wanted, tensor.type)
        groups[key].append(tensor)
    if not groups:
        return
    numbers = ("columns", "tensors", "MiB more")
    rows = output.table(
        "\nFallbacks: rows that are no whole blocks of the type asked for",
        ("role", "columns", "asked for", "written", "tensors", "MiB more"),
        numbers,
    )
    for (role, columns, wanted, written), tensors in groups.items():
        cost = sum(tensor.fallback_bytes for tensor in tensors)
        rows.add_row(role, str(columns), wanted, written, str(len(tensors)), output.mib(cost))
    output.print_table(rows)


def _print_tensors(todo: Plan) -> None:
    rows = output.table("", ("tensor", "shape", "from", "to", "MiB", "why"), ("MiB",))
    for tensor in todo.tensors:
        rows.add_row(
            tensor.name,
            " x ".join(map(str, tensor.source.shape)),
            tensor.source.type,
            tensor.type,
            output.mib(tensor.bytes),
            tensor.reason,
        )
    output.print_table(rows)


def _export(todo: Plan, path: Path, chosen: PlanOptions, overwrite: bool) -> None:
    from apex.files import OutputSet, check_output
    from apex.planning import files_read

    text = todo.tensor_type_file()
    if not text.strip():
        raise UsageError("There is nothing to export: no tensor changes.", "choose a tier")
    check_output([path], (*todo.model.files, *files_read(chosen)), overwrite=overwrite)
    with OutputSet([path]) as output_set:
        output_set.files[0].write(text.encode())
        output_set.commit()
    imatrix = f"--imatrix {shlex.quote(todo.imatrix.path)} " if todo.imatrix else ""
    output.say(
        f"wrote {path}; llama-quantize makes the same types with the base {todo.file_type}: "
        f"llama-quantize {imatrix}--tensor-type-file {shlex.quote(str(path))} "
        f"MODEL OUT {todo.file_type}"
    )


def _compare_tiers(model: ModelFile, chosen: PlanOptions, json: bool) -> None:
    import apex

    plans: list[tuple[Recipe, Plan]] = []
    for recipe in apex.tiers():
        tier_options: PlanOptions = {**chosen, "tier": recipe.name, "sizes_only": True}
        plans.append((recipe, apex.plan(model, **tier_options)))
    if json:
        output.print_json(
            [
                {
                    "tier": recipe.name,
                    "base": recipe.base,
                    "importance": recipe.importance,
                    "tensor_bytes": todo.tensor_bytes,
                    "file_bytes": todo.file_bytes,
                    "bits_per_weight": todo.bits_per_weight,
                    "fallbacks": len(todo.fallbacks),
                }
                for recipe, todo in plans
            ]
        )
        return
    numbers = ("MiB", "GiB", "bits/weight", "fallbacks")
    rows = output.table(
        f"{model.path.name}, {output.mib_and_gib(model.bytes)}, as every tier",
        ("tier", *numbers, "base", "imatrix"),
        numbers,
    )
    for recipe, todo in plans:
        rows.add_row(
            recipe.name,
            output.mib(todo.file_bytes),
            f"{todo.file_bytes / 2**30:.2f}",
            f"{todo.bits_per_weight:.2f}",
            str(len(todo.fallbacks)),
            recipe.base,
            "needed" if recipe.importance == "required" else "no",
        )
    output.print_table(rows)


def tiers(
    name: Annotated[
        Optional[str], typer.Argument(metavar="NAME", help="Show this tier's recipe.")
    ] = None,
) -> None:
    """List the tiers, or print one as a recipe to start your own from."""
    from apex.policy import Role, recipe_text
    from apex.policy import tiers as all_tiers

    if name is not None:
        typer.echo(recipe_text(name), nl=False)
        return
    rows = output.table(
        "Types per role; edge / near / middle for routed experts, edge / rest for the others",
        ("tier", "routed experts", "shared, dense", "attention, ssm", "mtp", "base", "imatrix"),
    )
    for recipe in all_tiers():
        cells = [
            _zones(recipe.types[role].values())
            for role in (Role.ROUTED, Role.SHARED, Role.ATTENTION, Role.MTP)
        ]
        needed = "needed" if recipe.importance == "required" else "no"
        rows.add_row(recipe.name, *cells, recipe.base, needed)
    output.print_table(rows)


def _zones(types: Iterable[str]) -> str:
    names = list(types)
    return names[0] if len(set(names)) == 1 else " / ".join(names)
