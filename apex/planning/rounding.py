"""How the weights of each tensor become levels, where another way than llama.cpp's is asked for."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from apex.planning.moments import find_moments, note_few_rows, require_moments
from apex.planning.request import Request
from apex.planning.tensor import REFERENCE, MomentsReference, PlannedTensor
from apex.planning.words import count, listed
from apex.sources import Tensor

__all__ = ["COMPENSATED_TYPES", "UNSHRUNK_TYPES", "rounding_for", "with_rounding"]

#: The types that come nearer to the model where their rows are unshrunk (bench/results).
UNSHRUNK_TYPES = ("IQ4_XS", "Q3_K", "IQ3_S", "Q2_K", "IQ2_S", "IQ1_M")
#: The types that can be compensated.
COMPENSATED_TYPES = (
    *("Q8_0", "Q6_K", "Q5_1", "Q5_K", "Q5_0", "Q4_1", "Q4_K", "Q4_0", "IQ4_NL", "IQ4_XS"),
    *("Q3_K", "IQ3_S", "IQ3_XXS", "Q2_K", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"),
)


def with_rounding(
    planned: Sequence[PlannedTensor], request: Request
) -> tuple[list[PlannedTensor], list[str]]:
    """The tensors with the rounding that was asked for, where it does something, and notes.

    A tensor that cannot be compensated is unshrunk if it gains from that. Raises ImatrixError
    where the second moments are of another model.
    """
    if request.rounding == REFERENCE:
        return list(planned), []
    if request.second_moments is not None:
        require_moments((tensor.source for tensor in planned), request.second_moments)
    result = [tensor if tensor.is_copied else _rounded(tensor, request) for tensor in planned]
    quantized = [tensor for tensor in result if not tensor.is_copied]
    return result, [_note(quantized, request.rounding), *note_few_rows(quantized)]


def rounding_for(
    rounding: str, type_name: str, *, has_importance: bool, has_moments: bool = False
) -> str:
    """The rounding of a tensor where this one is asked for: that, or one that asks for less."""
    if rounding == "compensated" and has_moments and type_name in COMPENSATED_TYPES:
        return rounding
    gains = rounding != REFERENCE and has_importance and type_name in UNSHRUNK_TYPES
    return "unshrunk" if gains else REFERENCE


def _rounded(tensor: PlannedTensor, request: Request) -> PlannedTensor:
    moments = _moments(tensor.source, request)
    found = rounding_for(
        request.rounding,
        tensor.type,
        has_importance=tensor.importance is not None,
        has_moments=moments is not None,
    )
    reason = f"{tensor.reason}; {found}"
    if found != request.rounding:
        reason += f": {_lack(tensor, request.rounding)}"
    is_compensated = found == "compensated"
    return replace(
        tensor, reason=reason, rounding=found, moments=moments if is_compensated else None
    )


def _moments(tensor: Tensor, request: Request) -> MomentsReference | None:
    return find_moments(tensor, request.second_moments) if request.second_moments else None


def _lack(tensor: PlannedTensor, rounding: str) -> str:
    """What keeps a tensor from the rounding that was asked for."""
    types = COMPENSATED_TYPES if rounding == "compensated" else UNSHRUNK_TYPES
    if tensor.type not in types:
        return f"{tensor.type} does not gain"
    return "no second moments" if rounding == "compensated" else "no importance"


def _note(quantized: Sequence[PlannedTensor], rounding: str) -> str:
    """How many tensors are rounded how, and what keeps the others."""
    numbers = Counter(tensor.rounding for tensor in quantized)
    will = f"{numbers[rounding]} will be {rounding}"
    if rounding == "compensated":
        will += f" and {numbers['unshrunk']} unshrunk"
    names: dict[str, list[str]] = defaultdict(list)
    for tensor in quantized:
        if tensor.rounding != rounding:
            names[_lack(tensor, rounding)].append(tensor.name)
    reasons = [
        f"{lack} ({count(len(those), 'tensor') if 'gain' in lack else listed(those)})"
        for lack, those in sorted(names.items())
    ]
    return f"Of {count(len(quantized), 'tensor')} to quantize, {will}" + (
        f"; the others not: {', '.join(reasons)}." if reasons else "."
    )
