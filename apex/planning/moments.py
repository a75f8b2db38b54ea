"""Which entry of a second-moment file belongs to which tensor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from apex.errors import ImatrixError
from apex.planning.tensor import MomentsReference
from apex.planning.words import count, listed
from apex.sources import Tensor

if TYPE_CHECKING:  # a plan without second moments does without numpy
    from apex.files import SecondMoments
    from apex.planning.tensor import PlannedTensor

__all__ = ["FEW_ROWS", "find_moments", "note_few_rows", "require_moments"]

#: With fewer rows than this, what is known of an expert's inputs is mostly that of all experts.
FEW_ROWS = 32


def find_moments(tensor: Tensor, moments: SecondMoments) -> MomentsReference | None:
    """The second moments of a tensor's inputs; None where nothing was collected for it."""
    entry = moments.entry(tensor.name)
    if entry is None or _problem(tensor, moments) or not entry.rows.any():
        return None
    few = tuple(expert for expert, rows in enumerate(entry.rows.tolist()) if rows < FEW_ROWS)
    return MomentsReference(entry.name, few)


def require_moments(tensors: Iterable[Tensor], moments: SecondMoments) -> None:
    """Raise ImatrixError where the file is not of the model of these tensors."""
    tensors = list(tensors)
    problems = [text for tensor in tensors if (text := _problem(tensor, moments))]
    if not problems and not any(moments.entry(tensor.name) for tensor in tensors):
        problems = [f"none of its {len(moments.names)} entries is for this model"]
    if problems:
        raise ImatrixError(
            f"{moments.path} does not fit the model: {listed(problems)}.",
            "collect the second moments of this very model",
        )


def _problem(tensor: Tensor, moments: SecondMoments) -> str:
    """How an entry differs from its tensor; "" where it fits, or is not there."""
    entry = moments.entry(tensor.name)
    if entry is None or (entry.columns, entry.matrices) == (tensor.columns, tensor.experts):
        return ""
    return (
        f"{tensor.name} has {tensor.experts} x {tensor.columns} inputs and the file "
        f"{entry.matrices} x {entry.columns}"
    )


def note_few_rows(planned: Iterable[PlannedTensor]) -> list[str]:
    """The experts of whose inputs little is known."""
    few = [
        (tensor.name, len(tensor.moments.few), tensor.source.experts)
        for tensor in planned
        if tensor.moments is not None and tensor.moments.few
    ]
    if not few:
        return []
    total = sum(number for _, number, _ in few)
    names = listed([f"{name} ({number} of {of})" for name, number, of in few])
    return [
        f"The second moments have fewer than {FEW_ROWS} rows of {count(total, 'expert')}, in "
        f"{count(len(few), 'tensor')}: {names}."
    ]
