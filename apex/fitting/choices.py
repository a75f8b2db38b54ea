"""What there is to choose: items for an allocation, and what of the file stays as it is."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from apex.allocation import Choice, Item
from apex.errors import PlanError
from apex.fitting.wishes import FORMATS, Constraints
from apex.planning import Plan, PlannedTensor
from apex.sensitivity.errors import CANDIDATES, needs_importance
from apex.sources import ModelFile
from apex.types import FILE_TYPES, TYPES, fits, tensor_bytes

__all__ = ["Choices", "base_of", "bits_of", "choices_of", "keeps", "padded", "raised"]

# Gate and up of dense, routed and shared feed-forward parts.
_PAIR = re.compile(r"ffn_(gate|up)(?=(_exps|_chexps|_shexp)?\.([0-9]+\.)?weight$)")
# Whose type is neither chosen nor asked for by the user.
_KEPT = ("override", "llama.cpp", "copy")

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


def choices_of(
    base: Plan, losses: Losses, constraints: Constraints, given: Collection[str] = ()
) -> Choices:
    """What can be chosen of a plan; its pinned tensors, and those of no known loss, stay.

    given: tensors whose type something else decides.

    Raises PlanError where a constraint leaves a tensor no type.
    """
    tensors = [
        tensor
        for tensor in base.tensors
        if tensor.name in losses and tensor.name not in given and tensor.decided_by not in _KEPT
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
    common = [
        name
        for name in losses[tensors[0].name]
        if name in TYPES
        and all(
            name in losses[tensor.name] and _is_allowed(name, tensor, constraints)
            for tensor in tensors
        )
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


def keeps(made: Plan, constraints: Constraints) -> bool:
    """Whether a plan's types are such as could have been chosen under the constraints."""
    pairs: dict[str, set[str]] = defaultdict(set)
    for tensor in made.tensors:
        if tensor.decided_by in _KEPT:
            continue
        if not _is_allowed(tensor.type, tensor, constraints):
            return False
        pairs[_item_name(tensor.name)].add(tensor.type)
    return not constraints.equal_pairs or all(len(types) == 1 for types in pairs.values())


def raised(tensor: PlannedTensor, constraints: Constraints) -> str:
    """The type of a tensor, or the next larger one that the constraints allow and its rows fit."""
    if _is_allowed(tensor.type, tensor, constraints):
        return tensor.type
    larger = [
        name
        for name in (*CANDIDATES, *constraints.floors.values())
        if bits_of(name) >= bits_of(tensor.type)
        and not needs_importance(name)
        and fits(name, tensor.source.columns)
        and _is_allowed(name, tensor, constraints)
    ]
    return min(larger, key=bits_of, default=tensor.type)


def _is_allowed(name: str, tensor: PlannedTensor, constraints: Constraints) -> bool:
    allowed = FORMATS[constraints.formats]
    if allowed is not None and name not in allowed and TYPES[name].is_quantized:
        return False
    floor = constraints.floors.get(tensor.role)
    return floor is None or bits_of(name) >= bits_of(floor)


def bits_of(name: str) -> float:
    """Bits per weight of a type."""
    return 8 * TYPES[name].block_bytes / TYPES[name].block_weights


def base_of(source: ModelFile, types: Mapping[str, str]) -> str:
    """The file type that most of the weights have, which the file claims to be of."""
    weights: dict[str, int] = defaultdict(int)
    for tensor in source.tensors:
        if tensor.name in types and TYPES[types[tensor.name]].is_quantized:
            weights[types[tensor.name]] += tensor.weights
    most = max(weights, key=lambda name: weights[name], default="Q8_0")
    named = [
        name
        for name, file_type in FILE_TYPES.items()
        # llama-quantize refuses the other one of Q2_K without importance.
        if file_type.default_type == most and name != "Q2_K_S"
    ]
    return named[-1] if named else "Q8_0"
