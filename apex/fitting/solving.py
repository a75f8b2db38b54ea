"""Allocations for one budget, and for a budget of a GPU beside one of the whole file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from apex.allocation import Allocation, Choice, Frontier, Item

__all__ = ["Solution", "divided", "solution_of"]


@dataclass(frozen=True)
class Solution:
    """A choice for every item.

    Attributes:
        choices: by item name.
        bytes, loss: their sums.
        bound: nothing within the same budgets can be predicted to lose less.
        price: loss that one more byte saves.
    """

    choices: Mapping[str, Choice]
    bytes: int
    loss: float
    bound: float
    price: float


def solution_of(*parts: Allocation) -> Solution:
    """Allocations of different items as one."""
    return Solution(
        {name: choice for part in parts for name, choice in part.choices.items()},
        sum(part.bytes for part in parts),
        sum(part.loss for part in parts),
        sum(part.bound for part in parts),
        max(part.price for part in parts),
    )


def divided(
    items: Sequence[Item],
    is_on_gpu: Callable[[Item], bool],
    gpu_budget: int,
    budget: int | None,
) -> Solution:
    """The least loss with at most ``gpu_budget`` bytes on the GPU, and ``budget`` everywhere.

    Without a budget for everything, what is not on the GPU gets bytes as long as they save as much
    as the last one there, and the bound is for the sizes that both came to. Raises BudgetError.
    """
    inside = [item for item in items if is_on_gpu(item)]
    outside = [item for item in items if not is_on_gpu(item)]
    on_gpu = Frontier(inside).within(gpu_budget)
    rest = Frontier(outside)
    if budget is None:
        return solution_of(on_gpu, _at_price(rest, on_gpu.price))
    whole = Frontier(items).within(budget)
    names = {item.name for item in inside}
    taken = sum(choice.bytes for name, choice in whole.choices.items() if name in names)
    if taken <= gpu_budget:
        return solution_of(whole)
    # The GPU is full, and the rest takes what it leaves: losses are convex in bytes, nearly.
    found = solution_of(on_gpu, beside := rest.within(budget - on_gpu.bytes))
    # By Lagrange's multipliers that is a bound where a byte on the GPU is worth more than another.
    if on_gpu.price >= beside.price:
        return replace(found, bound=max(found.bound, whole.bound))
    return replace(found, bound=whole.bound)


def _at_price(frontier: Frontier, price: float) -> Allocation:
    """As large as bytes save at least this much each."""
    size, loss = frontier.smallest.bytes, frontier.smallest.loss
    for step in frontier.steps:
        if loss - step.loss < price * (step.bytes - size):
            break
        size, loss = step.bytes, step.loss
    return frontier.within(size)
