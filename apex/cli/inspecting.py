"""``apex inspect``."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex.cli import output
from apex.cli.arguments import JsonArgument, SourceArgument
from apex.cli.output import Printer, Table
from apex.errors import ModelFileError

if TYPE_CHECKING:
    from apex.policy import Layout
    from apex.sources import Model, Tensor

__all__ = ["inspect"]

_LONG = 60
_ITEMS = 6


@dataclass(frozen=True, kw_only=True)
class InspectArguments(JsonArgument, SourceArgument):
    """What ``apex inspect`` is given."""

    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False


def inspect(given: InspectArguments) -> None:
    """Show any GGUF file, or what a Hugging Face folder becomes: roles, types, sizes and metadata.

    Reads headers only.
    """
    printer = Printer(json=given.json)
    model, problem = _open(given.model)
    layout = _layout(model)
    printer.data(lambda: _to_dict(model, layout))
    _print_metadata(model, printer)
    if given.tensors:
        _print_tensors(model, layout, printer)
    _print_summary(model, layout, printer)
    if problem:
        printer.note(problem)
    if model.missing:
        printer.note(
            f"The data of {len(model.missing)} of {len(model.tensors)} tensors is missing: the "
            "file is truncated, or a header alone."
        )


def _open(path: Path) -> tuple[Model, str]:
    """The model; or, where it cannot be quantized, its file as it is and what is wrong with it."""
    from apex import _core
    from apex.sources import ModelFile, open_source
    from apex.sources.gguf import tensor_table

    try:
        return open_source(path), ""
    except ModelFileError as error:
        if path.is_dir():
            raise
        try:  # a shard without the others, or a vocabulary without tensors, can still be shown
            header = _core.Header.read(os.fsencode(path))
            all(header.keys())
            tensors, offsets, missing = tensor_table([path], [header])  # decodes the names
        except (ValueError, OSError):
            raise error from None
        return ModelFile(path, (path,), (header,), tensors, offsets, missing), error.message


def _layout(model: Model) -> Layout | None:
    """The layers of a language model; None where names say nothing about roles."""
    from apex.policy import Layout

    try:
        layout = Layout.from_metadata(model.metadata)
    except ModelFileError:
        return None
    return layout if layout.block_count and not model.is_projector else None


def _role(tensor: Tensor, layout: Layout | None) -> str | None:
    from apex.policy import role_of

    return None if layout is None else role_of(tensor.name, layout).value


def _print_metadata(model: Model, printer: Printer) -> None:
    table = Table("Metadata", ("key", "type", "value"))
    for key in model.metadata:
        table.add(key, model.header.key_type(key), _shorten(model, key))
    printer.table(table)


def _shorten(model: Model, key: str) -> str:
    length = model.header.key_length(key)
    value = model.metadata[key]
    if model.header.key_type(key).startswith("arr"):
        shown = ", ".join(_clip(str(item)) for item in value[:_ITEMS])
        return f"{shown}, … ({length})" if length > _ITEMS else shown
    if model.header.key_type(key) == "f32":
        return f"{value:.8g}"
    return _clip(str(value))


def _clip(text: str) -> str:
    return text if len(text) <= _LONG else f"{text[:_LONG]}… ({len(text)} characters)"


def _print_tensors(model: Model, layout: Layout | None, printer: Printer) -> None:
    table = Table("Tensors", ("tensor", "role", "shape", "type", "size"), ("size",))
    for tensor in model.tensors:
        shape = " x ".join(map(str, tensor.shape))
        role = _role(tensor, layout) or ""
        table.add(tensor.name, role, shape, tensor.type, output.size(tensor.bytes))
    printer.table(table)


def _print_summary(model: Model, layout: Layout | None, printer: Printer) -> None:
    """A line per role, or per type where there are no roles."""
    numbers = ("tensors", "weights", "size", "bits/weight")
    first = ("role", "types") if layout else ("type",)
    table = Table(f"{model.path.name}: {_facts(model, layout)}", (*first, *numbers), numbers)
    groups: dict[str, list[Tensor]] = defaultdict(list)
    for tensor in model.tensors:
        groups[_role(tensor, layout) or tensor.type].append(tensor)
    for name in _ordered(groups):
        types = (", ".join(sorted({tensor.type for tensor in groups[name]})),) if layout else ()
        table.add(name, *types, *_sums(groups[name]))
    table.add_total("all", *("",) * (len(first) - 1), *_sums(model.tensors))
    printer.table(table)


def _ordered(names: Any) -> list[str]:
    """Roles in the order of ``Role``, then whatever is none."""
    from apex.policy import Role

    roles = [role.value for role in Role]
    return sorted(names, key=lambda name: roles.index(name) if name in roles else len(roles))


def _sums(tensors: Any) -> tuple[str, ...]:
    weights = sum(tensor.weights for tensor in tensors)
    total = sum(tensor.bytes for tensor in tensors)
    bits = f"{8 * total / weights:.2f}" if weights else ""
    return str(len(tensors)), f"{weights:,}", output.size(total), bits


def _facts(model: Model, layout: Layout | None) -> str:
    from apex.planning import ROUNDING_KEY

    kind = model.metadata.get("general.type", "")
    name = model.architecture or (kind if isinstance(kind, str) and kind else "no architecture")
    facts = [f"{name} projector" if model.is_projector else name]
    if layout:
        facts.append(f"{layout.trunk_layers} layers")
        if layout.mtp_layers:
            facts.append(f"{layout.mtp_layers} MTP")
        if layout.expert_count:
            facts.append(f"{layout.expert_count} experts")
    if ROUNDING_KEY in model.metadata:
        facts.append(str(model.metadata[ROUNDING_KEY]))
    if model.reference.kind == "huggingface":
        facts.append("as converted")
    elif len(model.files) > 1:
        facts.append(f"{len(model.files)} shards")
    return ", ".join(facts)


def _to_dict(model: Model, layout: Layout | None) -> dict[str, Any]:
    def plain(key: str) -> Any:
        value = model.metadata[key]
        return value.tolist() if hasattr(value, "tolist") else value

    return {
        "files": [str(path) for path in model.files],
        "architecture": model.architecture,
        "is_projector": model.is_projector,
        "layers": layout.trunk_layers if layout else 0,
        "mtp_layers": layout.mtp_layers if layout else 0,
        "experts": layout.expert_count if layout else 0,
        "weights": model.weights,
        "bytes": model.bytes,
        "missing": [tensor.name for tensor in model.missing],
        "metadata": {key: plain(key) for key in model.metadata},
        "tensors": [
            {
                "name": tensor.name,
                "role": _role(tensor, layout),
                "shape": list(tensor.shape),
                "type": tensor.type,
                "bytes": tensor.bytes,
            }
            for tensor in model.tensors
        ],
    }
