"""``apex inspect``."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex.cli import options, output

if TYPE_CHECKING:
    from apex import ModelFile
    from apex.policy import Layout, Role

__all__ = ["inspect"]

_LONG = 60


def inspect(
    file: options.Model,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    json: options.Json = False,
) -> None:
    """Show a GGUF file: roles, types, sizes and metadata. Reads headers only.

    Example: apex inspect model.gguf --tensors
    """
    import apex
    from apex.policy import Layout

    model = apex.open_model(file)
    layout = Layout.from_metadata(model.metadata)
    if json:
        output.print_json(_to_dict(model, layout))
        return
    _print_metadata(model)
    if tensors:
        _print_tensors(model, layout)
    _print_summary(model, layout)
    if model.missing:
        output.note(f"The data of {len(model.missing)} tensors is missing: the file is truncated.")


def _print_metadata(model: ModelFile) -> None:
    rows = output.table("Metadata", ("key", "type", "value"))
    for key in model.metadata:
        rows.add_row(key, model.header.key_type(key), _shorten(model, key))
    output.print_table(rows)


def _shorten(model: ModelFile, key: str) -> str:
    length = model.header.key_length(key)
    value = model.metadata[key]
    if model.header.key_type(key).startswith("arr"):
        shown = ", ".join(str(item) for item in value[:6])
        return f"{shown}, … ({length})" if length > 6 else shown
    text = str(value).replace("\n", "\\n")
    return text if len(text) <= _LONG else f"{text[:_LONG]}… ({len(text)} characters)"


def _print_tensors(model: ModelFile, layout: Layout) -> None:
    from apex.policy import role_of

    rows = output.table("Tensors", ("tensor", "role", "shape", "type", "MiB"), ("MiB",))
    for tensor in model.tensors:
        shape = " x ".join(map(str, tensor.shape))
        role = role_of(tensor.name, layout).value
        rows.add_row(tensor.name, role, shape, tensor.type, output.mib(tensor.bytes))
    output.print_table(rows)


def _print_summary(model: ModelFile, layout: Layout) -> None:
    numbers = ("tensors", "weights", "MiB", "bits/weight")
    kind = "projector" if model.is_projector else model.architecture or "unknown architecture"
    facts = [kind]
    if layout.block_count:
        facts.append(f"{layout.trunk_layers} layers")
    if layout.mtp_layers:
        facts.append(f"{layout.mtp_layers} MTP")
    if layout.expert_count:
        facts.append(f"{layout.expert_count} experts")
    if len(model.files) > 1:
        facts.append(f"{len(model.files)} shards")
    rows = output.table(
        f"{model.path.name}: {', '.join(facts)}", ("role", "types", *numbers), numbers
    )
    for role, group in _by_role(model, layout).items():
        weights = sum(tensor.weights for tensor in group)
        size = sum(tensor.bytes for tensor in group)
        types = ", ".join(sorted({tensor.type for tensor in group}))
        rows.add_row(
            role.value,
            types,
            str(len(group)),
            f"{weights:,}",
            output.mib(size),
            f"{8 * size / weights:.2f}",
        )
    rows.add_section()
    rows.add_row(
        "all",
        "",
        str(len(model.tensors)),
        f"{model.weights:,}",
        output.mib(model.bytes),
        f"{8 * model.bytes / model.weights:.2f}",
        style="bold",
    )
    output.print_table(rows)


def _by_role(model: ModelFile, layout: Layout) -> dict[Role, list[Any]]:
    from apex.policy import Role, role_of

    groups: dict[Role, list[Any]] = defaultdict(list)
    for tensor in model.tensors:
        groups[role_of(tensor.name, layout)].append(tensor)
    return {role: groups[role] for role in Role if role in groups}


def _to_dict(model: ModelFile, layout: Layout) -> dict[str, Any]:
    from apex.policy import role_of

    def plain(key: str) -> Any:
        value = model.metadata[key]
        return value.tolist() if hasattr(value, "tolist") else value

    return {
        "files": [str(path) for path in model.files],
        "architecture": model.architecture,
        "is_projector": model.is_projector,
        "layers": layout.trunk_layers,
        "mtp_layers": layout.mtp_layers,
        "experts": layout.expert_count,
        "weights": model.weights,
        "bytes": model.bytes,
        "missing": [tensor.name for tensor in model.missing],
        "metadata": {key: plain(key) for key in model.metadata},
        "tensors": [
            {
                "name": tensor.name,
                "role": role_of(tensor.name, layout).value,
                "shape": list(tensor.shape),
                "type": tensor.type,
                "bytes": tensor.bytes,
            }
            for tensor in model.tensors
        ],
    }
