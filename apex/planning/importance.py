"""Which entry of an importance matrix belongs to which tensor."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apex.sources import Tensor

if TYPE_CHECKING:  # a plan without an importance matrix does without numpy
    import numpy as np
    import numpy.typing as npt

    from apex.files import ImportanceEntry, ImportanceMatrix

__all__ = ["ImportanceReference", "Mismatch", "find_importance"]


@dataclass(frozen=True)
class ImportanceReference:
    """Where a tensor's importance comes from.

    Attributes:
        entry: name of the entry in the importance matrix, the tensor's own unless it was mapped.
        experts, columns: the tensor's shape, rows aside.
        unreached: experts that no token reached; they count as if every column were alike.
    """

    entry: str
    experts: int
    columns: int
    unreached: tuple[int, ...]

    def values(self, matrix: ImportanceMatrix) -> npt.NDArray[np.float32]:
        """The importance, float32 (experts, columns)."""
        import numpy as np

        data = matrix.entries[self.entry]
        recorded = data.sums.shape[0]
        if recorded > 1 and self.experts == 1:
            sums = data.sums.sum(axis=0, dtype=np.float32, keepdims=True)
            return type(data)(sums, data.counts.sum(keepdims=True)).values(1)
        if recorded == 1 and data.size == self.columns:
            return np.repeat(data.values(1), self.experts, axis=0)
        return data.values(self.experts)  # a .dat entry does not say how it divides into experts


@dataclass(frozen=True)
class Mismatch:
    """An entry that is there, but of the wrong size."""

    entry: str
    size: int
    expected: int


# What multiplies the same activations: (pattern, names that may stand in for it).
_GATE_UP = re.compile(r"ffn_(gate_up|gate|up)(_[a-z]*exps|_shexp)?\.weight$")
_MLA = re.compile(r"attn_(kv_b|k_b|v_b)\.weight$")


def _relatives(name: str) -> Iterator[str]:
    """Names of tensors that see the same input as ``name``, the nearest first.

    Gate and up projections, fused or not, share their input. MLA's kv_b and its split halves share
    the compressed key-value vector; where a half is stored transposed its columns differ, and the
    size check refuses it.
    """
    if match := _GATE_UP.search(name):
        for word in ("gate_up", "up", "gate"):
            if word != match[1]:
                yield f"{name[: match.start()]}ffn_{word}{match[2] or ''}.weight"
    elif match := _MLA.search(name):
        for word in ("kv_b", "v_b", "k_b"):
            if word != match[1]:
                yield f"{name[: match.start()]}attn_{word}.weight"


def find_importance(
    tensor: Tensor, matrix: ImportanceMatrix
) -> ImportanceReference | Mismatch | None:
    """The importance of a tensor: its own entry, or that of a relative with the same columns.

    Returns a Mismatch where the tensor's own entry is of the wrong size, None where there is none.
    """
    own = matrix.entries.get(tensor.name)
    expected = tensor.columns * tensor.experts
    if own is not None:
        if own.size != expected:
            return Mismatch(tensor.name, own.size, expected)
        return _reference(tensor, tensor.name, own)
    for name in _relatives(tensor.name):
        entry = matrix.entries.get(name)
        if entry is not None and _fits(tensor, entry, matrix.is_legacy):
            return _reference(tensor, name, entry)
    return None


def _fits(tensor: Tensor, entry: ImportanceEntry, is_legacy: bool) -> bool:
    if is_legacy:  # which does not say how its values divide into experts
        return entry.size in (tensor.columns * tensor.experts, tensor.columns)
    experts, columns = entry.sums.shape
    return columns == tensor.columns and (experts in (1, tensor.experts) or tensor.experts == 1)


def _reference(tensor: Tensor, name: str, entry: ImportanceEntry) -> ImportanceReference:
    unreached = entry.unreached if entry.sums.shape[0] == tensor.experts else ()
    return ImportanceReference(name, tensor.experts, tensor.columns, unreached)
