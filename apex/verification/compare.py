"""Compares two sources tensor by tensor: how far the weights are from what they were."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.errors import ImatrixError, ModelFileError, UsageError
from apex.files import ImportanceMatrix, SecondMoments, load_imatrix, load_second_moments
from apex.planning import (
    REFERENCE,
    ROUNDING_KEY,
    ImportanceReference,
    find_importance,
    require_moments,
)
from apex.policy import Layout, Role, role_of
from apex.sources import Source, Tensor, open_source
from apex.types import TYPES
from apex.verification.outputs import OutputErrors
from apex.verification.report import Sums, TensorError, VerifyReport, root

__all__ = ["verify"]

# About how many bytes of both files together are compared at a time.
_PART_BYTES = 64 << 20
_BLOCK_WEIGHTS = 256


def verify(
    quantized: str | os.PathLike[str] | Source,
    source: str | os.PathLike[str] | Source,
    *,
    imatrix: str | os.PathLike[str] | None = None,
    second_moments: str | os.PathLike[str] | None = None,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Compare every tensor of a quantized model with its source.

    imatrix: weights the errors by the importance of the columns.
    second_moments: also tells how far the outputs of the tensors are off. That takes about as
        long as to run the model until every expert has seen as many tokens as it has columns, and
        takes the threads that numpy takes.
    threads: 0 for all that are available.
    progress: called with the bytes of the source that are done, and of all.

    Raises ModelFileError where a tensor is missing on either side or has another shape,
    ImatrixError where the importance matrix or the second moments are of another model, UsageError
    for negative threads.
    """
    if threads < 0:
        raise UsageError(
            f"{threads} threads cannot work.", "give a number of threads, or 0 for all"
        )
    ours = open_source(quantized) if isinstance(quantized, (str, os.PathLike)) else quantized
    theirs = open_source(source) if isinstance(source, (str, os.PathLike)) else source
    matrix = None if imatrix is None else load_imatrix(imatrix)
    moments = None if second_moments is None else load_second_moments(second_moments)
    pairs = _pairs(ours, theirs)
    if moments is not None:
        require_moments((tensor for tensor, _ in pairs), moments)
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
            outputs = _outputs(a, moments, threads)
            role = role_of(a.name, layout)
            results.append(_compare(a, b, role, importance, outputs, readers, threads))
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


def _outputs(tensor: Tensor, moments: SecondMoments | None, threads: int) -> OutputErrors | None:
    if moments is None or tensor.name in moments.of_weights:  # no inputs, so no outputs
        return None
    entry = moments.entry(tensor.name)
    return OutputErrors(entry, threads) if entry is not None and entry.rows.any() else None


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
    outputs: OutputErrors | None,
    readers: tuple[_Reader, _Reader],
    threads: int,
) -> TensorError:
    """Compare expert by expert, some rows at a time, so that little is in memory at a time."""
    ours, theirs = readers
    sums, worst, worst_row, worst_column = Sums(), 0.0, 0, 0
    rows = a.rows // a.experts
    step = max(1, min(rows, _PART_BYTES // (a.row_bytes + b.row_bytes)))
    for first in range(0, a.rows, rows):
        for start in range(first, first + rows, step):
            count = min(step, first + rows - start)
            a_rows, b_rows = ours.rows(a, start, count), theirs.rows(b, start, count)
            part = _core.compare(
                a_rows,
                a.type,
                b_rows,
                b.type,
                (count, a.columns),
                None if importance is None else importance[start // rows],
                threads,
            )
            sums.add(part)
            if outputs is not None:
                error, reference, _ = outputs.sums(start // rows, a, a_rows, b, b_rows)
                sums.output_error += error
                sums.output_reference += reference
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
        root(sums.error, sums.reference),
        None if importance is None else root(sums.weighted_error, sums.weighted_reference),
        None if outputs is None else root(sums.output_error, sums.output_reference),
        root(worst / block, mean_square),
        worst_row,
        worst_column,
        sums.bad_values,
        sums,
    )
