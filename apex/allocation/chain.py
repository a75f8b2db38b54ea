"""The allocations that are the best of their sizes, each a step larger than the one before.

To choose one of each item's choices within a budget is the multiple-choice knapsack problem. With
a price on each byte it falls apart into one small problem per item, and what is best at a price is
best at its own size (Everett, "Generalized Lagrange Multiplier Method", 1963). As the price falls,
these optima form a chain: each item's choices on its lower convex hull, and the steps of all items
by the loss that they save per byte (Sinha and Zoltners, "The Multiple-Choice Knapsack Problem",
1979).

Losses are added as whole numbers of a unit, the smallest bit of any loss. So sums are exact, do not
depend on the path that led to them, and no error of rounding ranks one allocation above another.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from apex.allocation.choices import Choice, Item
from apex.allocation.gap import Changes, Integers, combined, worthwhile

__all__ = ["Chain", "Stairs"]


class Stairs(NamedTuple):
    """Allocations from one size of the chain to below the next: larger ones lose less.

    Attributes:
        sizes: their bytes, ascending.
        totals: their losses in units, descending.
        rows: for each, what it has other than the chain's: numbers of choices, or -1.
    """

    sizes: list[int]
    totals: list[int]
    rows: Integers


class Chain:
    """The chain of all items, and what lies between its sizes.

    Choices are numbered over all items; those that another one dominates are left out.

    Attributes:
        choices: by number.
        owners: by number, the index of the item.
        taken: by step, the number of the choice that an item takes.
        sizes: bytes before the first step and after each.
        totals: losses before the first step and after each, in units.
        scale: how many units one nat is.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        losses = (choice.loss for item in items for choice in item.choices)
        # The denominators of floats are powers of two, so the largest is a multiple of them all.
        self.scale = max((loss.as_integer_ratio()[1] for loss in losses), default=1)
        useful = [_undominated(item.choices) for item in items]
        self.choices = [choice for choices in useful for choice in choices]
        self.owners = np.repeat(np.arange(len(items)), [len(choices) for choices in useful])
        self._units = [self._in_units(choice.loss) for choice in self.choices]
        self._bytes = np.array([choice.bytes for choice in self.choices], np.int64)
        self._losses = np.array([choice.loss for choice in self.choices], np.float64)
        bounds = list(accumulate((len(choices) for choices in useful), initial=0))
        self._smallest = np.array(bounds[:-1], np.int64)

        # By falling price; at equal prices in the order of the items.
        steps = sorted(
            (-self._price(before, after), before, after)
            for start, stop in pairwise(bounds)
            for before, after in pairwise(self._hull(start, stop))
        )
        self.taken = np.array([after for _, _, after in steps], np.int64)
        added = (self.choices[a].bytes - self.choices[b].bytes for _, b, a in steps)
        saved = (self._units[a] - self._units[b] for _, b, a in steps)
        first_size = sum(self.choices[number].bytes for number in bounds[:-1])
        first_total = sum(self._units[number] for number in bounds[:-1])
        self.sizes = list(accumulate(added, initial=first_size))
        self.totals = list(accumulate(saved, initial=first_total))

    def chosen(self, position: int) -> Integers:
        """The number of each item's choice after so many steps."""
        chosen = self._smallest.copy()
        taken = self.taken[:position]
        chosen[self.owners[taken]] = taken  # an item's steps are in order, and the last stays
        return chosen

    def stairs(self, position: int) -> Stairs:
        """The allocations between the size after so many steps and the next, the first included."""
        size, total = self.sizes[position], self.totals[position]
        if position == len(self.taken):
            return Stairs([size], [total], np.empty((1, 0), np.int64))
        width = self.sizes[position + 1] - size
        lowest = self.totals[position + 1]
        saved = (total - lowest) / self.scale
        chosen = self.chosen(position)
        changes = worthwhile(self._changes(chosen, saved / width), saved)
        added, rows = combined(changes, width, saved)

        # The losses once more, now exactly: a stair is kept if it loses less than all before it.
        kept, sizes, totals = [], [size], [total]
        before = chosen[self.owners[rows]]
        for index, row in enumerate(rows.tolist()):
            units = total + sum(
                self._units[number] - self._units[old]
                for number, old in zip(row, before[index].tolist(), strict=True)
                if number >= 0
            )
            if lowest <= units < totals[-1]:
                kept.append(index)
                sizes.append(size + int(added[index]))
                totals.append(units)
        unchanged = np.full((1, rows.shape[1]), -1, np.int64)
        return Stairs(sizes, totals, np.concatenate((unchanged, rows[kept])))

    def _changes(self, chosen: Integers, price: float) -> Changes:
        """From what is chosen to every choice, at a price for each byte."""
        old = chosen[self.owners]
        added_bytes = self._bytes - self._bytes[old]
        added_losses = self._losses - self._losses[old]
        return Changes(
            self.owners,
            np.arange(len(self.choices)),
            added_bytes,
            added_losses,
            added_losses + price * added_bytes,
        )

    def _in_units(self, loss: float) -> int:
        numerator, denominator = loss.as_integer_ratio()
        return numerator * (self.scale // denominator)

    def _price(self, before: int, after: int) -> int:
        """What a byte saves between two choices of an item, in units of 2**-64.

        That ranks steps exactly: over all the bytes of a file, what is rounded away is less than
        one unit.
        """
        saved = self._units[before] - self._units[after]
        return (saved << 64) // (self.choices[after].bytes - self.choices[before].bytes)

    def _hull(self, start: int, stop: int) -> list[int]:
        """The choices of an item that lie on the lower convex hull of loss over bytes, by size."""
        hull: list[int] = []
        for number in range(start, stop):
            while len(hull) > 1 and self._price(*hull[-2:]) <= self._price(hull[-1], number):
                hull.pop()
            hull.append(number)
        return hull


def _undominated(choices: Sequence[Choice]) -> list[Choice]:
    """By size, the choices that lose less than every other of at most their size."""
    kept: list[Choice] = []
    for choice in sorted(choices, key=lambda choice: (choice.bytes, choice.loss)):
        if not kept or choice.loss < kept[-1].loss:
            kept.append(choice)
    return kept
