"""How the weights of each tensor become levels, where another way than llama.cpp's is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from apex.planning.request import Request
from apex.planning.tensor import REFERENCE, PlannedTensor
from apex.planning.words import count, listed

__all__ = ["UNSHRUNK_TYPES", "rounding_for", "with_rounding"]

#: The types that come nearer to the model where their rows are unshrunk (bench/results).
UNSHRUNK_TYPES = ("IQ4_XS", "Q3_K", "Q2_K", "IQ2_S")


def with_rounding(
    planned: Sequence[PlannedTensor], request: Request
) -> tuple[list[PlannedTensor], list[str]]:
    """The tensors with the rounding that was asked for, where it does something, and notes."""
    if request.rounding == REFERENCE:
        return list(planned), []
    result = [
        tensor if tensor.is_copied else _rounded(tensor, request.rounding) for tensor in planned
    ]
    return result, [_note([tensor for tensor in result if not tensor.is_copied], request.rounding)]


def rounding_for(rounding: str, type_name: str, *, has_importance: bool) -> str:
    """The rounding of a tensor where this one is asked for: that, or the reference."""
    gains = type_name in UNSHRUNK_TYPES and has_importance
    return rounding if gains else REFERENCE


def _rounded(tensor: PlannedTensor, rounding: str) -> PlannedTensor:
    has_importance = tensor.importance is not None
    found = rounding_for(rounding, tensor.type, has_importance=has_importance)
    why = rounding
    if found == REFERENCE:
        lack = "without importance" if tensor.type in UNSHRUNK_TYPES else f"being {tensor.type}"
        why = f"not {rounding}, {lack}"
    return replace(tensor, reason=f"{tensor.reason}; {why}", rounding=found)


def _note(quantized: Sequence[PlannedTensor], rounding: str) -> str:
    """How many tensors are rounded so, and what keeps the others."""
    left = [tensor for tensor in quantized if tensor.rounding == REFERENCE]
    types = sorted({tensor.type for tensor in left if tensor.type not in UNSHRUNK_TYPES})
    lacking = [tensor.name for tensor in left if tensor.type in UNSHRUNK_TYPES]
    reasons = []
    if types:
        number = len(left) - len(lacking)
        reasons.append(
            f"{count(number, 'tensor', 'are')} of a type that does not gain: {listed(types)}"
        )
    if lacking:
        reasons.append(f"{count(len(lacking), 'tensor', 'have')} no importance: {listed(lacking)}")
    changed = len(quantized) - len(left)
    sentence = f"Of {count(len(quantized), 'tensor')} to quantize, {changed} will be {rounding}"
    return "; ".join([sentence, *reasons]) + "."
