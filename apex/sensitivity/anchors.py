"""Choices of types for the whole model that are measured once, to correct predictions by."""

from __future__ import annotations

import math
from collections.abc import Mapping

from apex.allocation import Choice, Frontier, Item
from apex.sensitivity.data import Anchor, Sensitivity
from apex.sensitivity.errors import Candidate
from apex.sensitivity.losses import losses_of
from apex.sensitivity.probing import Prober
from apex.sensitivity.serial import rounded
from apex.types import tensor_bytes

__all__ = ["ANCHOR_BITS", "anchor_types", "measure_anchors"]

#: Bits per weight of the anchors, from where files become bad to where they hardly differ.
ANCHOR_BITS = (2.5, 3.0, 3.5, 4.5, 6.0)


def anchor_types(
    sensitivity: Sensitivity, candidates: Mapping[str, Candidate]
) -> dict[str, tuple[dict[str, str], float]]:
    """By name, the types that are best at a size, and their predicted loss.

    Of a model that cannot be made so small, what can be made.
    """
    losses = {
        name: {kind: loss for kind, loss in by_type.items() if kind in candidates[name].types}
        for name, by_type in losses_of(sensitivity).items()
        if name in candidates
    }
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


def measure_anchors(
    sensitivity: Sensitivity, candidates: Mapping[str, Candidate], prober: Prober, chunks: int
) -> tuple[Anchor, ...]:
    """Measure them over the first chunks, as files of these types would run.

    Raises ModelFileError, RunError, DataError.
    """
    anchors = []
    try:
        for name, (types, loss) in anchor_types(sensitivity, candidates).items():
            prober.become(types)
            values = prober.measure(0, chunks).mean(axis=1)
            spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
            error = spread / math.sqrt(len(values))
            anchors.append(
                Anchor(name, rounded(loss), rounded(float(values.mean())), rounded(error))
            )
    finally:
        prober.restore()
    return tuple(anchors)
