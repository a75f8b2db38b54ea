"""Compares a quantized model with its source: how far the weights are from what they were."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.errors import ImatrixError, ModelFileError, UsageError
from apex.files import ImportanceMatrix, load_imatrix
from apex.planning import REFERENCE, ROUNDING_KEY, ImportanceReference, find_importance
from apex.policy import Layout, Role, role_of
from apex.sources import Source, Tensor, open_model
from apex.types import TYPES

__all__ = ["RoleError", "TensorError", "VerifyReport", "verify"]

# About how many bytes of both files together are compared at a time.
_PART_BYTES = 64 << 20
_BLOCK_WEIGHTS = 256


@dataclass(frozen=True)
class TensorError:
    """How far one tensor is from its source.

    All errors are relative: 0 is equal, 1 is as far off as if all weights had become zero.

    Attributes:
        name, role, type: of the quantized tensor.
        weights: number of weights.
        rmse: root of the mean squared error over the root of the source's mean square.
        weighted_rmse: the same with every column weighted by its importance; None without one.
        worst_block: the same for the worst run of 256 weights of a row, over the root of the mean
            square of the whole tensor.
        worst_row, worst_column: where that run starts; rows are counted over all experts.
        bad_values: number of NaN or infinite weights; they are left out of the errors.
    """

    name: str
    role: Role
    type: str
    weights: int
    rmse: float
    weighted_rmse: float | None
    worst_block: float
    worst_row: int
    worst_column: int
    bad_values: int
    sums: _Sums


@dataclass
class _Sums:
    """What the errors are made of, to be added over tensors."""

    error: float = 0.0
    reference: float = 0.0
    weighted_error: float = 0.0
    weighted_reference: float = 0.0
    bad_values: int = 0

    def add(self, other: _Sums | _core.Comparison) -> None:
        self.error += other.error
        self.reference += other.reference
        self.weighted_error += other.weighted_error
        self.weighted_reference += other.weighted_reference
        self.bad_values += other.bad_values


@dataclass(frozen=True)
class RoleError:
    """The errors of all tensors of a role together, and its worst tensor."""

    role: Role
    tensors: int
    weights: int
    rmse: float
    weighted_rmse: float | None
    worst_tensor: str
    worst_block: float
    bad_values: int


@dataclass(frozen=True)
class VerifyReport:
    """What ``verify`` found.

    Attributes:
        tensors: every tensor that was compared, in the order of the quantized file.
        notes: what was left out, one sentence each.
        rounding: how weights became levels, as the quantized file says; "reference" where it says
            nothing.
    """

    tensors: tuple[TensorError, ...]
    notes: tuple[str, ...]
    rounding: str = REFERENCE

    @property
    def bad_values(self) -> int:
        """NaN or infinite weights in the quantized file."""
        return sum(tensor.bad_values for tensor in self.tensors)

    def by_role(self) -> tuple[RoleError, ...]:
        """Per role, in the order of ``Role``."""
        return tuple(
            _role_error(role, tensors)
            for role in Role
            if (tensors := [tensor for tensor in self.tensors if tensor.role is role])
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as data for JSON."""
        return {
            "bad_values": self.bad_values,
            "rounding": self.rounding,
            "notes": list(self.notes),
            "roles": [
                {
                    "role": role.role.value,
                    "tensors": role.tensors,
                    "weights": role.weights,
                    "rmse": role.rmse,
                    "weighted_rmse": role.weighted_rmse,
                    "worst_tensor": role.worst_tensor,
                    "worst_block": role.worst_block,
                    "bad_values": role.bad_values,
                }
                for role in self.by_role()
            ],
            "tensors": [
                {
                    "name": tensor.name,
                    "role": tensor.role.value,
                    "type": tensor.type,
                    "weights": tensor.weights,
                    "rmse": tensor.rmse,
                    "weighted_rmse": tensor.weighted_rmse,
                    "worst_block": tensor.worst_block,
                    "worst_row": tensor.worst_row,
                    "worst_column": tensor.worst_column,
                    "bad_values": tensor.bad_values,
                }
                for tensor in self.tensors
            ],
        }


def verify(
    quantized: str | os.PathLike[str] | Source,
    source: str | os.PathLike[str] | Source,
    *,
    imatrix: str | os.PathLike[str] | None = None,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Compare every tensor of a quantized model with its source.

    imatrix: weights the errors by the importance of the columns.
    threads: 0 for all that are available.
    progress: called with the bytes of the source that are done, and of all.

    Raises ModelFileError where a tensor is missing on either side or has another shape,
    ImatrixError where the importance matrix is of another model, UsageError for negative threads.
    """
    if threads < 0:
        raise UsageError(
            f"{threads} threads cannot work.", "give a number of threads, or 0 for all"
        )
    ours = open_model(quantized) if isinstance(quantized, (str, os.PathLike)) else quantized
    theirs = open_model(source) if isinstance(source, (str, os.PathLike)) else source
    matrix = None if imatrix is None else load_imatrix(imatrix)
    pairs = _pairs(ours, theirs)
    layout = Layout.from_metadata(theirs.metadata)
    notes = []
    unreadable = [a.name for a, b in pairs if not (_is_readable(a) and _is_readable(b))]
    if unreadable:
        notes.append(f"{len(unreadable)} tensors hold no weights: {', '.join(unreadable)}.")
    readers = _Reader(ours), _Reader(theirs)
    total = sum(b.bytes for _, b in pairs)
    done = 0
    results = []
    for a, b in pairs:
        if _is_readable(a) and _is_readable(b):
            importance = _importance(a, matrix)
            results.append(_compare(a, b, role_of(a.name, layout), importance, readers, threads))
        done += b.bytes
        if progress is not None:
            progress(done, total)
    rounding = str(ours.metadata.get(ROUNDING_KEY, REFERENCE))
    return VerifyReport(tuple(results), tuple(notes), rounding)


def _pairs(ours: Source, theirs: Source) -> list[tuple[Tensor, Tensor]]:
    ours.require_data()
    theirs.require_data()
    sources = {tensor.name: tensor for tensor in theirs.tensors}
    quantized = {tensor.name for tensor in ours.tensors}
    problems = [f"{name} is missing" for name in sources if name not in quantized]
    problems += [f"{name} is not in the source" for name in quantized if name not in sources]
    problems += [
        f"{tensor.name} has shape {tensor.shape} instead of {sources[tensor.name].shape}"
        for tensor in ours.tensors
        if tensor.name in sources and tensor.shape != sources[tensor.name].shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ModelFileError(
            f"{ours.reference.location} is not made from {theirs.reference.location}: "
            f"{'; '.join(problems[:5])}{more}.",
            "give the quantized file first and its own source second",
        )
    return [(tensor, sources[tensor.name]) for tensor in ours.tensors]


def _is_readable(tensor: Tensor) -> bool:
    return TYPES[tensor.type].has_dequantizer


def _importance(tensor: Tensor, matrix: ImportanceMatrix | None) -> npt.NDArray[np.float32] | None:
    if matrix is None or len(tensor.shape) < 2:
        return None
    match = find_importance(tensor, matrix)
    if match is None:
        return None
    if not isinstance(match, ImportanceReference) or not matrix.entries[match.entry].is_sound():
        raise ImatrixError(
            f"{matrix.path} does not fit {tensor.name}.",
            "give the importance matrix that was made from this model",
        )
    return match.values(matrix)


class _Reader:
    """Reads rows of a source into a buffer of its own, which is used again."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._buffer = np.empty(0, np.uint8)

    def rows(self, tensor: Tensor, first: int, count: int) -> npt.NDArray[np.uint8]:
        size = count * tensor.row_bytes
        if len(self._buffer) < size:
            self._buffer = np.empty(size, np.uint8)
        rows = self._buffer[:size]
        self._source.read(tensor, first, rows.data)
        return rows


def _compare(
    a: Tensor,
    b: Tensor,
    role: Role,
    importance: npt.NDArray[np.float32] | None,
    readers: tuple[_Reader, _Reader],
    threads: int,
) -> TensorError:
    """Compare expert by expert, some rows at a time, so that little is in memory at a time."""
    ours, theirs = readers
    sums, worst, worst_row, worst_column = _Sums(), 0.0, 0, 0
    rows = a.rows // a.experts
    step = max(1, min(rows, _PART_BYTES // (a.row_bytes + b.row_bytes)))
    for first in range(0, a.rows, rows):
        for start in range(first, first + rows, step):
            count = min(step, first + rows - start)
            part = _core.compare(
                ours.rows(a, start, count),
                a.type,
                theirs.rows(b, start, count),
                b.type,
                (count, a.columns),
                None if importance is None else importance[start // rows],
                threads,
            )
            sums.add(part)
            if part.worst_error > worst:
                worst, worst_row = part.worst_error, start + part.worst_row
                worst_column = part.worst_column
    mean_square = sums.reference / a.weights
    block = min(_BLOCK_WEIGHTS, a.columns - worst_column)
    return TensorError(
        a.name,
        role,
        a.type,
        a.weights,
        _root(sums.error, sums.reference),
        None if importance is None else _root(sums.weighted_error, sums.weighted_reference),
        _root(worst / block, mean_square),
        worst_row,
        worst_column,
        sums.bad_values,
        sums,
    )


def _role_error(role: Role, tensors: Sequence[TensorError]) -> RoleError:
    sums = _Sums()
    for tensor in tensors:
        sums.add(tensor.sums)
    worst = max(tensors, key=lambda tensor: tensor.worst_block)
    has_importance = any(tensor.weighted_rmse is not None for tensor in tensors)
    return RoleError(
        role,
        len(tensors),
        sum(tensor.weights for tensor in tensors),
        _root(sums.error, sums.reference),
        _root(sums.weighted_error, sums.weighted_reference) if has_importance else None,
        worst.name,
        worst.worst_block,
        sums.bad_values,
    )


def _root(error: float, reference: float) -> float:
    if error == 0:
        return 0.0
    return math.sqrt(error / reference) if reference > 0 else math.inf
