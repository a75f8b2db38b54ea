"""A part of a model's rows, as a source: enough to know how large errors are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from apex import _core
from apex.sources import Source, SourceReference, Tensor

__all__ = ["RowSample"]

# Rows of one expert that are the least to learn from.
_LEAST_ROWS = 16


class RowSample:
    """A ``Source`` of evenly spaced rows of each matrix of another one.

    Its tensors have the names, columns and experts of the other's, and fewer rows.
    """

    def __init__(self, source: Source, weights: int) -> None:
        """weights: of one tensor, about as many as are kept."""
        self._source = source
        self._whole = {tensor.name: tensor for tensor in source.tensors}
        self._tensors = tuple(_shortened(tensor, weights) for tensor in source.tensors)

    @property
    def reference(self) -> SourceReference:
        """That of the other source, under a digest of its own."""
        reference = self._source.reference
        digest = f"{reference.digest}, {sum(tensor.rows for tensor in self._tensors)} rows"
        return replace(reference, kind="sample", digest=digest)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """That of the other source."""
        return self._source.metadata

    @property
    def tensors(self) -> Sequence[Tensor]:
        """The shortened tensors."""
        return self._tensors

    @property
    def alignment(self) -> int:
        """That of the other source."""
        return self._source.alignment

    def new_header(self) -> _core.Header:
        """That of the other source."""
        return self._source.new_header()

    def require_data(self) -> None:
        """Raise ModelFileError unless all data is there."""
        self._source.require_data()

    def read(self, tensor: Tensor, first_row: int, out: memoryview) -> None:
        """Fill ``out`` with rows of the sample."""
        whole = self._whole[tensor.name]
        if whole.rows == tensor.rows:
            self._source.read(whole, first_row, out)
            return
        kept, all_rows = (each.rows // each.experts for each in (tensor, whole))
        size = tensor.row_bytes
        for number in range(len(out) // size):
            expert, row = divmod(first_row + number, kept)
            place = expert * all_rows + row * all_rows // kept
            self._source.read(whole, place, out[number * size : (number + 1) * size])


def _shortened(tensor: Tensor, weights: int) -> Tensor:
    rows = tensor.rows // tensor.experts
    kept = max(_LEAST_ROWS, weights // (tensor.columns * tensor.experts))
    if kept >= rows or len(tensor.shape) < 2:
        return tensor
    return replace(tensor, shape=(tensor.columns, kept, *tensor.shape[2:]))
