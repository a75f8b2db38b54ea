"""How far the outputs of a tensor are off over the text that second moments were collected from.

An output is w xᵀ, of a row w of weights and an input x. Over all inputs, the squared errors of a
matrix's outputs are tr(E S Eᵀ), E being the errors of its weights and S its second moments.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.files import MomentsEntry
from apex.sources import Tensor

__all__ = ["OutputErrors"]

Floats = npt.NDArray[np.float32]

# About how many weights are dequantized at a time, and how many columns of S are multiplied.
_PART_WEIGHTS = 4 << 20
_BLOCK_COLUMNS = 512


class OutputErrors:
    """Squared errors of the outputs of one tensor. Holds the second moments of one expert."""

    def __init__(self, entry: MomentsEntry, threads: int) -> None:
        self._entry = entry
        self._threads = threads
        self._expert = -1
        self._half: Floats = np.zeros((entry.columns, entry.columns), np.float32)

    def sums(
        self,
        expert: int,
        a: Tensor,
        a_rows: npt.NDArray[np.uint8],
        b: Tensor,
        b_rows: npt.NDArray[np.uint8],
    ) -> tuple[float, float, float]:
        """Of the same rows of an expert: squares of the errors of a's outputs, of b's outputs, and
        of what b's outputs would be if the columns of the inputs were independent.

        Weights of a that are NaN or infinite count as right. An expert without inputs has none of
        all three.
        """
        if self._entry.rows[expert] == 0:
            return 0.0, 0.0, 0.0
        self._load(expert)
        error = reference = independent = 0.0
        inputs = 2 * self._half.diagonal().astype(np.float64)
        a_rows, b_rows = a_rows.reshape(-1, a.row_bytes), b_rows.reshape(-1, b.row_bytes)
        step = max(1, _PART_WEIGHTS // a.columns)
        for first in range(0, len(a_rows), step):
            theirs = self._weights(b, b_rows[first : first + step])
            reference += self._squares(theirs)
            independent += float(np.square(theirs).sum(axis=0, dtype=np.float64) @ inputs)
            ours = self._weights(a, a_rows[first : first + step])
            off = np.subtract(ours, theirs, out=theirs)
            off[~np.isfinite(ours)] = 0
            error += self._squares(off)
        return error, reference, independent

    def _load(self, expert: int) -> None:
        """The lower triangle with half the diagonal: w S wᵀ is twice w times it times wᵀ."""
        if expert == self._expert:
            return
        values = self._entry.sums(expert)
        start = 0
        for row in range(self._entry.columns):
            self._half[row, : row + 1] = values[start : start + row + 1]
            start += row + 1
        self._half[np.diag_indices_from(self._half)] /= 2
        self._expert = expert

    def _weights(self, tensor: Tensor, rows: npt.NDArray[np.uint8]) -> Floats:
        weights: Floats = _core.dequantize(
            rows.reshape(-1),
            tensor.type,
            shape=(len(rows), tensor.columns),
            threads=self._threads,
        )
        return weights

    def _squares(self, weights: Floats) -> float:
        """tr(W S Wᵀ), of which nothing above the diagonal of S is multiplied but in its blocks."""
        total = 0.0
        for first in range(0, weights.shape[1], _BLOCK_COLUMNS):
            last = first + _BLOCK_COLUMNS
            product = weights[:, :last] @ self._half[first:last, :last].T
            product *= weights[:, first:last]
            total += 2 * float(product.sum(dtype=np.float64))
        return max(total, 0.0)
