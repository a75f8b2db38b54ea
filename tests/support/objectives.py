"""The objective of compensated rounding, as plain numpy: see support/compensation.py."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from support.blocks import Array

F = np.float32


def ordered(terms: Array) -> Array:
    """Their sum over the last axis, in the order of the index."""
    return np.add.accumulate(terms, axis=-1)[..., -1]


def product(x: Array, matrix: Array) -> Array:
    """x matrix^T (rows, rows of the matrix)."""
    sums = np.zeros((len(x), len(matrix)), F)
    for k in range(x.shape[1]):
        sums += x[:, k : k + 1] * matrix[:, k]
    return sums


@dataclass(frozen=True)
class Objective:
    moments: Array  # H
    factors: Array  # U
    pivots: Array  # D


def packed(square: Array) -> Array:
    """The lower triangle, row by row."""
    return np.ascontiguousarray(square[np.tril_indices(len(square))], F)


def damping_for(rows: float, columns: int) -> float:
    return max(3.0 * columns / max(rows, 1), 0.1)


def make_objective(
    sums: Array,
    rows: float,
    pooled: Array,
    pooled_rows: float,
    damping: float | None = None,
    level: float = 0.1,
) -> Objective:
    """From packed float32 sums of x x^T; in binary64 up to H."""
    columns = int(np.sqrt(2 * len(sums)))
    prior = 256 / pooled_rows if pooled_rows > 0 else 0
    below = np.tril_indices(columns)
    square = np.zeros((columns, columns))
    square[below] = sums.astype(np.float64) + prior * pooled.astype(np.float64)
    square /= ordered(square.diagonal()) / columns
    diagonal = square.diagonal().copy()
    damping = damping_for(rows, columns) if damping is None else damping
    np.fill_diagonal(square, diagonal + (damping * diagonal + level))
    lower = square.astype(F)
    raised = F(1e-3)
    while True:  # until rounding errors leave no pivot that is not positive
        factors = factorized(lower)
        if factors is not None:
            return Objective(np.tril(lower) + np.tril(lower, -1).T, *factors)
        np.fill_diagonal(lower, lower.diagonal() + raised)
        raised *= F(10)


def factorized(lower: Array) -> tuple[Array, Array] | None:
    """U and D of H, of which only the lower triangle is read; None where a pivot is not positive.

    From the last column on, what a column accounts for is taken out of all before it.
    """
    left = lower.copy()
    pivots = np.zeros(len(left), F)
    for j in reversed(range(len(left))):
        pivots[j] = left[j, j]
        left[j, :j] *= F(1) / pivots[j]
        left[:j, :j] -= (left[j, :j] * pivots[j])[:, np.newaxis] * left[j, :j]
    if not (np.isfinite(pivots).all() and (pivots > 0).all()):
        return None
    return np.triu(left.T, 1) + np.eye(len(left), dtype=F), pivots
