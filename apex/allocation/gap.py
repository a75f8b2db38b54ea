"""What fills the sizes between one step of the chain and the next: changes, alone and together.

A change of one item costs the loss that it adds plus the price of the bytes that it adds, where
the price is what the next step saves per byte. At that price the chain's own choices are the best,
so this *reduced cost* is never negative, and changes that together cost as much as the step saves
are of no use before it (Sinha and Zoltners, "The Multiple-Choice Knapsack Problem", 1979).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Changes", "combined", "worthwhile"]

# Of more changes than this the most promising are taken, of more sums the cheapest in each range of
# bytes. Few items stay below both limits, so they are solved exactly; twice as much gains nothing
# visible with many.
_CHANGES, _SUMS = 128, 2048

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Changes:
    """Changes of an allocation, each to another choice of one item.

    Attributes:
        owners: whose item each change is.
        choices: to which choice, numbered over all items.
        bytes: what each adds to the allocation; negative where the choice is smaller.
        losses: what each adds to the allocation's loss.
        costs: their reduced costs.
    """

    owners: Integers
    choices: Integers
    bytes: Integers
    losses: Floats
    costs: Floats

    def __getitem__(self, index: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> Changes:
        return Changes(
            self.owners[index],
            self.choices[index],
            self.bytes[index],
            self.losses[index],
            self.costs[index],
        )


def worthwhile(changes: Changes, saved: float) -> Changes:
    """The changes that can help before a step that saves this much loss.

    Where they are many, half are those of the least cost and half those of the least cost per byte:
    the first fill what remains, the second bridge the step.
    """
    changes = changes[(changes.bytes != 0) & (changes.costs < saved)]
    if len(changes.owners) <= _CHANGES:
        return changes
    by_cost = np.argsort(changes.costs, kind="stable")
    by_rate = np.argsort(changes.costs / np.abs(changes.bytes), kind="stable")
    return changes[np.union1d(by_cost[: _CHANGES // 2], by_rate[: _CHANGES // 2])]


def combined(changes: Changes, width: int, saved: float) -> tuple[Integers, Integers]:
    """Sums of changes, at most one of each item: those that lose less than all smaller ones.

    Args:
        changes: of these the sums are made.
        width: bytes of the next step; only sums of fewer bytes than it are of use.
        saved: the loss that the next step saves; sums that cost as much are of no use.

    Returns:
        The bytes that each sum adds, from 1 to width - 1, ascending, shape (sums,); and the choices
        of each, shape (sums, items), with -1 where an item does not change.
    """
    owners = np.unique(changes.owners)
    largest = [np.abs(changes.bytes[changes.owners == owner]).max() for owner in owners]
    sizes, losses, costs = np.zeros(1, np.int64), np.zeros(1), np.zeros(1)
    rows = np.empty((1, 0), np.int64)
    # The small ones come last and fill the gaps that the large ones leave.
    for owner in owners[np.argsort(largest, kind="stable")[::-1]]:
        of_item = changes[changes.owners == owner]
        sizes = np.add.outer(sizes, np.concatenate(([0], of_item.bytes))).ravel()
        losses = np.add.outer(losses, np.concatenate(([0.0], of_item.losses))).ravel()
        costs = np.add.outer(costs, np.concatenate(([0.0], of_item.costs))).ravel()
        kept = _undominated(sizes, losses)
        kept = kept[costs[kept] < saved]
        if len(kept) > _SUMS:
            kept = kept[_thinned(sizes[kept], costs[kept], width)]
        before, change = np.divmod(kept, len(of_item.owners) + 1)
        column = np.concatenate(([-1], of_item.choices))[change]
        sizes, losses, costs = sizes[kept], losses[kept], costs[kept]
        rows = np.column_stack((rows[before], column))
    useful = (sizes > 0) & (sizes < width)
    return sizes[useful], rows[useful]


def _undominated(sizes: Integers, losses: Floats) -> npt.NDArray[np.intp]:
    """Indexes, by ascending size, of the sums that lose less than all of at most their size."""
    order = np.lexsort((losses, sizes))
    least = np.minimum.accumulate(losses[order])
    return order[np.concatenate(([True], least[1:] < least[:-1]))]


def _thinned(sizes: Integers, costs: Floats, width: int) -> npt.NDArray[np.intp]:
    """Indexes, by ascending size, of the cheapest sum in each of _SUMS ranges of bytes."""
    near = np.flatnonzero((sizes > -width) & (sizes < 2 * width))
    ranges = (sizes[near] + width) * _SUMS // (3 * width)
    order = np.lexsort((costs[near], ranges))
    first = np.concatenate(([True], np.diff(ranges[order]) > 0))
    return np.sort(near[order[first]])
