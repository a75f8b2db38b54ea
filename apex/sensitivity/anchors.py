"""Choices of types for the whole model that are measured once, to correct predictions by."""

from __future__ import annotations

from collections.abc import Mapping

from apex.allocation import Choice, Frontier, Item
from apex.sensitivity.data import Sensitivity
from apex.sensitivity.errors import Candidate
from apex.sensitivity.losses import losses_of
from apex.types import tensor_bytes

__all__ = ["ANCHOR_BITS", "anchor_types"]

#: Bits per weight of the anchors, from where files become bad to where they hardly differ.
ANCHOR_BITS = (2.5, 3.0, 3.5, 4.5, 6.0)


def anchor_types(
    sensitivity: Sensitivity, candidates: Mapping[str, Candidate]
) -> dict[str, tuple[dict[str, str], float]]:
    """By name, the types that are best at a size, and their predicted loss.

    Of a model that cannot be made so small, what can be made.
    """
    losses = losses_of(sensitivity)
    items = [
        Item(
            name,
            tuple(
                Choice(kind, tensor_bytes(kind, candidates[name].tensor.shape), loss)
                for kind, loss in by_type.items()
            ),
        )
        for name, by_type in losses.items()
        if by_type
    ]
    weights = sum(candidates[item.name].tensor.weights for item in items)
    frontier = Frontier(items)
    result = {}
    for bits in ANCHOR_BITS:
        budget = max(int(bits * weights / 8), frontier.smallest.bytes)
        allocation = frontier.within(budget)
        types = {name: choice.type for name, choice in allocation.choices.items()}
        result[f"{bits:g} bits per weight"] = (types, allocation.loss)
    return result
