"""Changes of a model that leave its outputs as they are: scales and orders of channels."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Place:
    """Where a scale can go.

    Attributes:
        kind: what such places are called.
        readers: whose columns are multiplied.
        writers: whose rows are divided: matrices, or the gains of a norm.
        spread: of each column, which value of the scale it gets.
        kept: matrices whose rows are only sorted.
    """

    kind: str
    readers: tuple[str, ...]
    writers: tuple[str, ...]
    spread: np.ndarray
    kept: tuple[str, ...] = ()


@dataclass
class Change:
    """What becomes of the tensors, by name: factors and new places of columns and of rows.

    All are (matrices, columns or rows), or of one matrix where all are changed alike.
    """

    columns: dict[str, np.ndarray] = field(default_factory=dict)
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    column_order: dict[str, np.ndarray] = field(default_factory=dict)
    row_order: dict[str, np.ndarray] = field(default_factory=dict)

    def names(self) -> set[str]:
        return {*self.columns, *self.rows, *self.column_order, *self.row_order}

    def add(self, other: Change) -> None:
        for mine, new in zip(vars(self).values(), vars(other).values(), strict=True):
            assert not mine.keys() & new.keys()
            mine.update(new)

    def apply(self, name: str, weights: np.ndarray) -> np.ndarray:
        """The changed weights, float32 (matrices, rows, columns)."""
        result = weights
        if name in self.columns:
            result = result * self.columns[name][:, None, :]
        if name in self.rows:
            result = result / self.rows[name][:, :, None]
        if name in self.row_order:
            result = np.take_along_axis(result, self.row_order[name][:, :, None], 1)
        if name in self.column_order:
            result = np.take_along_axis(result, self.column_order[name][:, None, :], 2)
        return np.ascontiguousarray(result, np.float32)

    def undo(self, name: str, weights: np.ndarray) -> np.ndarray:
        """Of changed columns what they stand for in the unchanged model."""
        result = weights
        if name in self.column_order:
            back = np.argsort(self.column_order[name], axis=1)
            result = np.take_along_axis(result, back[:, None, :], 2)
        if name in self.columns:
            result = result / self.columns[name][:, None, :]
        return result

    def inputs(self, name: str, importance: np.ndarray) -> np.ndarray:
        """What the importance becomes."""
        result = importance
        if name in self.columns:
            result = result / self.columns[name] ** 2
        if name in self.column_order:
            result = np.take_along_axis(result, self.column_order[name], 1)
        return np.ascontiguousarray(result, np.float32)

    def moments(self, name: str, expert: int, sums: np.ndarray) -> np.ndarray:
        """What second moments become, packed as they were."""
        if name not in self.columns and name not in self.column_order:
            return sums
        size = int(np.sqrt(2 * len(sums)))
        full = np.zeros((size, size), np.float64)
        triangle = np.tril_indices(size)
        full[triangle] = sums
        full += np.tril(full, -1).T
        if name in self.columns:
            scale = self.columns[name][expert % len(self.columns[name])].astype(np.float64)
            full /= scale[:, None] * scale
        if name in self.column_order:
            order = self.column_order[name][expert]
            full = full[np.ix_(order, order)]
        return full[triangle].astype(np.float32)


def mixed(changes: list[Change], which: np.ndarray) -> Change:
    """One change out of several: of each matrix, the number of its own; 0 leaves it as it is."""
    result = Change()
    for what, target in vars(result).items():
        for name in vars(changes[0])[what]:
            values = [vars(change)[what][name] for change in changes]
            same = np.arange(values[0].shape[1]) if what.endswith("order") else np.float32(1)
            stacked = np.stack([np.broadcast_to(same, values[0].shape), *values])
            target[name] = stacked[which, np.arange(stacked.shape[1])]
    return result


def dealt(importance: np.ndarray, size: int) -> np.ndarray:
    """Which column goes where, so that each block of columns has as many important ones.

    Columns are dealt to the blocks like cards, from the most important, there and back again.
    """
    sorted_columns = np.argsort(-importance, axis=1, kind="stable")
    count = importance.shape[1] // size
    turn, block = np.divmod(np.arange(importance.shape[1]), count)
    place = np.where(turn % 2, count - 1 - block, block) * size + turn
    order = np.empty_like(sorted_columns)
    order[:, place] = sorted_columns
    return order
