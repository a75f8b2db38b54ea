"""``apex plan`` and ``apex tiers``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from apex.cli import options, output
from apex.errors import OutputError, UsageError

if TYPE_CHECKING:
    from apex import Plan

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
    json: options.Json = False,
) -> None:
    """Show what would be written: every type, reason and size. Reads headers only.

    Example: apex plan model.gguf --tier i-quality --imatrix imatrix.gguf
    """
    import apex

    chosen = options.plan_options(context)
    if all_tiers:
        if tier or file_type or export:
            raise UsageError("--all-tiers takes no tier, type or export.", "leave them out")
        _compare_tiers(apex.open_model(model), chosen, json)
        return
    todo = apex.plan(model, **chosen)
    if export is not None:
        _export(todo, export)
    if json:
        output.print_json(todo.to_dict())
        return
    if tensors:
        _print_tensors(todo)
    print_plan(todo)


def print_plan(todo: Plan) -> None:
    """The plan's table on stdout and its notes on stderr."""
    what = todo.tier if todo.tier else todo.file_type
    print_roles(todo, f"{todo.model.path.name} as {what}, base {todo.file_type}")
    for text in todo.notes:
        output.note(text)


def print_roles(todo: Plan, title: str, *, to_stderr: bool = False) -> None:
    """A line per role, and the sums."""
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
    rows.add_section()
    rows.add_row(
        "all",
        "",
        str(len(todo.tensors)),
        output.mib(todo.model.bytes),
        output.mib(todo.tensor_bytes),
        f"{todo.bits_per_weight:.2f}",
        style="bold",
    )
    output.print_table(rows, to_stderr=to_stderr)
    files = f" in {len(todo.files)} files" if len(todo.files) > 1 else ""
    text = f"output: {output.gib(todo.file_bytes)}{files}"
    (output.stderr if to_stderr else output.stdout)().print(text)


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


def _export(todo: Plan, path: Path) -> None:
    try:
        path.write_text(todo.tensor_type_file(), encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror}.", "check the path"
        ) from None
    output.say(
        f"wrote {path}; the same types come from: llama-quantize --tensor-type-file {path} "
        f"MODEL OUT {todo.file_type}"
    )


def _compare_tiers(model: object, chosen: object, json: bool) -> None:
    import apex
    from apex.planning import PlanOptions

    assert isinstance(model, apex.ModelFile)
    given: PlanOptions = chosen  # type: ignore[assignment]
    plans = []
    for recipe in apex.tiers():
        tier_options: PlanOptions = {**given, "tier": recipe.name, "sizes_only": True}
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
        f"{model.path.name}: {output.gib(model.bytes)}",
        ("tier", *numbers, "importance matrix"),
        numbers,
    )
    for recipe, todo in plans:
        rows.add_row(
            recipe.name,
            output.mib(todo.tensor_bytes),
            f"{todo.tensor_bytes / 2**30:.2f}",
            f"{todo.bits_per_weight:.2f}",
            str(len(todo.fallbacks)),
            "needed" if recipe.importance == "required" else "no",
        )
    output.print_table(rows)


def tiers(
    name: Annotated[
        Optional[str], typer.Argument(metavar="NAME", help="Show this tier's recipe.")
    ] = None,
) -> None:
    """List the tiers, or print one as a recipe to start your own from.

    Example: apex tiers quality > mine.toml, then --tier mine.toml
    """
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
            " / ".join(dict.fromkeys(recipe.types[role].values()))
            if len(set(recipe.types[role].values())) == 1
            else " / ".join(recipe.types[role].values())
            for role in (Role.ROUTED, Role.SHARED, Role.ATTENTION, Role.MTP)
        ]
        needed = "needed" if recipe.importance == "required" else "no"
        rows.add_row(recipe.name, *cells, recipe.base, needed)
    output.print_table(rows)
