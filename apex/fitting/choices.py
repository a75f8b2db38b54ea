"""What there is to choose: items for an allocation, and what of the file stays as it is."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from apex.allocation import Choice, Item
from apex.errors import PlanError
from apex.fitting.wishes import FORMATS, Constraints
from apex.planning import Plan, PlannedTensor
from apex.types import TYPES, tensor_bytes

__all__ = ["Choices", "choices_of", "padded"]

_PAIR = re.compile(r"ffn_(gate|up)(?=[._])")

Losses = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Choices:
    """What there is to choose.

    Attributes:
        items: of the tensors that are chosen.
        members: by item name, its tensors.
        fixed_bytes: of the file beside them: header, and tensors that are not chosen.
    """

    items: tuple[Item, ...]
    members: Mapping[str, tuple[str, ...]]
    fixed_bytes: int

    def types(self, chosen: Mapping[str, Choice]) -> dict[str, str]:
        """By tensor name, its type."""
        return {
            tensor: choice.type for name, choice in chosen.items() for tensor in self.members[name]
        }


def padded(type_name: str, shape: Sequence[int], alignment: int) -> int:
    """Bytes of a tensor in a file."""
    return -(-tensor_bytes(type_name, shape) // alignment) * alignment


def choices_of(base: Plan, losses: Losses, constraints: Constraints) -> Choices:
    """What can be chosen of a plan; its pinned tensors, and those of no known loss, stay.

    Raises PlanError where a constraint leaves a tensor no type.
    """
    tensors = [
        tensor
        for tensor in base.tensors
        if tensor.name in losses and tensor.decided_by not in ("override", "llama.cpp", "copy")
    ]
    alignment = base.files[0].alignment
    members: dict[str, list[PlannedTensor]] = defaultdict(list)
    for tensor in tensors:
        members[_item_name(tensor.name) if constraints.equal_pairs else tensor.name].append(tensor)
    items = tuple(
        Item(name, _choices(group, losses, constraints, alignment))
        for name, group in members.items()
    )
    chosen = sum(padded(tensor.type, tensor.source.shape, alignment) for tensor in tensors)
    return Choices(
        items,
        {name: tuple(tensor.name for tensor in group) for name, group in members.items()},
        base.file_bytes - chosen,
    )


def _item_name(name: str) -> str:
    return _PAIR.sub("ffn_gate_and_up", name)


def _choices(
    tensors: Sequence[PlannedTensor], losses: Losses, constraints: Constraints, alignment: int
) -> tuple[Choice, ...]:
    names = [name for name in losses[tensors[0].name] if name in TYPES]
    allowed = FORMATS[constraints.formats]
    common = [
        name
        for name in names
        if all(name in losses[tensor.name] for tensor in tensors)
        and (allowed is None or name in allowed)
        and all(_is_above_floor(name, tensor, constraints) for tensor in tensors)
    ]
    if not common:
        raise PlanError(
            f"No type is left for {tensors[0].name}.", "allow more formats, or a smaller floor"
        )
    return tuple(
        Choice(
            name,
            sum(padded(name, tensor.source.shape, alignment) for tensor in tensors),
            sum(losses[tensor.name][name] for tensor in tensors),
        )
        for name in common
    )


def _is_above_floor(name: str, tensor: PlannedTensor, constraints: Constraints) -> bool:
    floor = constraints.floors.get(tensor.role)
    return floor is None or _bits(name) >= _bits(floor)


def _bits(name: str) -> float:
    return 8 * TYPES[name].block_bytes / TYPES[name].block_weights
