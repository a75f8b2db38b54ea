"""The least predicted loss at every size."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

from apex.allocation.chain import Chain
from apex.allocation.choices import Allocation, BudgetError, Choice, Item, LossError
from apex.allocation.knees import knees

__all__ = ["Frontier", "Step"]


class Step(NamedTuple):
    """One item takes a larger choice.

    Attributes:
        item: its index.
        choice: what it takes.
        bytes: of the whole allocation afterwards.
        loss: of the whole allocation afterwards.
    """

    item: int
    choice: Choice
    bytes: int
    loss: float


class Frontier:
    """The best allocations of items at every size: least loss in a budget, fewest bytes for a loss.

    A larger budget never predicts more loss: which allocations lie between two steps does not
    depend on the budget, and each budget gets the last that it can pay for.

    Args:
        items: each with a name of its own; ValueError where two have the same.

    Attributes:
        smallest: the allocation of the fewest bytes; where there are several, of the least loss.
        largest: the allocation of the least loss; where there are several, of the fewest bytes.
        steps: from the smallest allocation to the largest. After each, the allocation is the best
            of its size, and the next saves less per byte or equally much.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self._names = [item.name for item in items]
        if len(set(self._names)) < len(items):
            raise ValueError("Two items have the same name.")
        self._chain = chain = Chain(items)
        self._stairs = lru_cache(maxsize=16)(chain.stairs)
        self.steps = [
            Step(int(chain.owners[number]), chain.choices[number], size, self._nats(total))
            for number, size, total in zip(
                chain.taken, chain.sizes[1:], chain.totals[1:], strict=True
            )
        ]
        self.smallest = self._allocation(0, 0, chain.sizes[0])
        self.largest = self._allocation(len(self.steps), 0, chain.sizes[-1])

    @cached_property
    def knees(self) -> list[int]:
        """Indexes of the few steps after which the curve bends most, as ``knees.knees`` says."""
        return knees([step.bytes for step in self.steps], [step.loss for step in self.steps])

    def within(self, budget: int) -> Allocation:
        """The least predicted loss in at most this many bytes; BudgetError if nothing fits."""
        position = bisect_right(self._chain.sizes, budget) - 1
        if position < 0:
            raise BudgetError(budget, self._chain.sizes[0])
        stair = bisect_right(self._stairs(position).sizes, budget) - 1
        return self._allocation(position, stair, budget)

    def under(self, loss: float) -> Allocation:
        """The fewest bytes that predict at most this loss; LossError if nothing predicts so little.

        Its bound is the one for its own bytes.
        """
        position = self._first_under(self._chain.totals, loss)
        if position > len(self.steps):
            raise LossError(loss, self.largest.loss)
        if position > 0:
            stairs = self._stairs(position - 1)
            stair = self._first_under(stairs.totals, loss)
            if stair < len(stairs.totals):
                return self._allocation(position - 1, stair, stairs.sizes[stair])
        return self._allocation(position, 0, self._chain.sizes[position])

    def _nats(self, units: int) -> float:
        return units / self._chain.scale  # rounded once

    def _first_under(self, totals: list[int], loss: float) -> int:
        return bisect_left(totals, -loss, key=lambda total: -self._nats(total))

    def _allocation(self, position: int, stair: int, budget: int) -> Allocation:
        """A stair after so many steps, as the answer to a budget."""
        chain = self._chain
        chosen = chain.chosen(position)
        size, total = chain.sizes[position], chain.totals[position]
        bound, price = total, 0.0
        if position < len(self.steps):
            width = chain.sizes[position + 1] - size
            saved = total - chain.totals[position + 1]
            bound -= -(-saved * (budget - size) // width)  # a whole number of units, rounded down
            price = saved / (width * chain.scale)
        if stair:
            stairs = self._stairs(position)
            size, total = stairs.sizes[stair], stairs.totals[stair]
            changed = stairs.rows[stair]
            changed = changed[changed >= 0]
            chosen[chain.owners[changed]] = changed
        choices = (chain.choices[number] for number in chosen)
        return Allocation(
            choices=dict(zip(self._names, choices, strict=True)),
            bytes=size,
            loss=self._nats(total),
            bound=self._nats(bound),
            price=price,
        )
