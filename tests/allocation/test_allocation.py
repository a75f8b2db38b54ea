"""Allocations against every combination of choices, and what must hold where those are too many."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apex.allocation import Allocation, BudgetError, Choice, Frontier, Item, LossError, gap
from apex.errors import PlanError

# Few different sizes and losses, so that some are equal, dominated, zero or on no convex hull.
alike = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, 2.0, 7.0])
apart = st.floats(0, 10) | st.floats(0, 1e-300) | alike


def lists_of(losses: st.SearchStrategy[float], most: int = 5) -> st.SearchStrategy[list[Item]]:
    choice = st.builds(Choice, st.sampled_from("ABC"), st.integers(0, 12), losses)
    choices = st.lists(choice, min_size=1, max_size=5).map(tuple)
    return st.lists(choices, min_size=1, max_size=most).map(
        lambda all_choices: [Item(f"item {i}", some) for i, some in enumerate(all_choices)]
    )


def all_sums(items: list[Item]) -> dict[int, Fraction]:
    """By bytes, the least loss of all combinations of exactly so many."""
    least: dict[int, Fraction] = {}
    for combination in product(*(item.choices for item in items)):
        size = sum(choice.bytes for choice in combination)
        loss = sum((Fraction(choice.loss) for choice in combination), Fraction(0))
        least[size] = min(loss, least.get(size, loss))
    return least


def check(allocation: Allocation, items: list[Item], budget: int) -> None:
    """It is what it says to be, and within the budget."""
    assert list(allocation.choices) == [item.name for item in items]
    assert all(allocation.choices[item.name] in item.choices for item in items)
    chosen = allocation.choices.values()
    assert allocation.bytes == sum(choice.bytes for choice in chosen) <= budget
    assert allocation.loss == math.fsum(choice.loss for choice in chosen)
    assert allocation.bound <= allocation.loss


def model(count: int, seed: int = 1) -> list[Item]:
    """Tensors of very different sizes, as models have them, and thirteen types."""
    draw = random.Random(seed)
    bits = (1.56, 2.06, 2.56, 2.63, 3.06, 3.44, 3.45, 4.25, 4.5, 5.5, 6.56, 8.5, 16.0)
    items = []
    for index in range(count):
        weights = draw.choice([2**16, 2**22, 2**24, 2**28])
        importance = 1e-3 * math.exp(draw.gauss(0, 1.5))
        choices = tuple(
            Choice(
                f"{bit} bits",
                round(weights * bit / 256) * 32,
                0.0 if bit == 16 else importance * 4**-bit * math.exp(draw.gauss(0, 0.15)),
            )
            for bit in bits
        )
        items.append(Item(f"item {index}", choices))
    return items


@settings(deadline=None, max_examples=150)
@given(lists_of(alike))
def test_few_items_are_solved_exactly(items: list[Item]) -> None:
    frontier, sums = Frontier(items), all_sums(items)
    smallest = min(sums)
    for budget in range(smallest, max(sums) + 3):
        allocation = frontier.within(budget)
        check(allocation, items, budget)
        least = min(loss for size, loss in sums.items() if size <= budget)
        assert allocation.loss == least
        assert allocation.bound <= least
    for loss in {*sums.values(), *(loss + Fraction(1, 8) for loss in sums.values())}:
        fewest = min(size for size, other in sums.items() if other <= loss)
        allocation = frontier.under(float(loss))
        check(allocation, items, fewest)
        assert allocation.loss <= loss
    with pytest.raises(BudgetError) as caught:
        frontier.within(smallest - 1)
    assert caught.value.smallest == smallest
    assert frontier.smallest == frontier.within(smallest)
    assert (frontier.smallest.bytes, frontier.smallest.loss) == (smallest, sums[smallest])
    assert frontier.largest.loss == min(sums.values())
    assert frontier.largest.bytes == min(
        size for size, loss in sums.items() if loss == frontier.largest.loss
    )


@settings(deadline=None, max_examples=150)
@given(lists_of(apart))
def test_the_bound_is_one_whatever_the_losses(items: list[Item]) -> None:
    """Losses of very different magnitudes: what an allocation loses is rounded, its bound holds."""
    frontier, sums = Frontier(items), all_sums(items)
    scale = max(choice.loss for item in items for choice in item.choices)
    for budget in range(min(sums), max(sums) + 3):
        allocation = frontier.within(budget)
        check(allocation, items, budget)
        least = float(min(loss for size, loss in sums.items() if size <= budget))
        assert allocation.bound <= least <= allocation.loss <= least + 1e-14 * scale


def test_no_error_of_rounding_ranks_an_allocation_above_another() -> None:
    """Added up in floats, 11 bytes would seem to lose less than 10, and lose more."""
    pairs = [
        ((1, 0.9), (3, 0.3)),
        ((3, 1.1), (6, 0.3)),
        ((0, 0.9), (6, 1 / 3)),
        ((3, 0.2), (5, 1e-17)),
    ]
    items = [
        Item(str(index), tuple(Choice("A", *pair) for pair in some))
        for index, some in enumerate(pairs)
    ]
    frontier = Frontier(items)
    losses = [frontier.within(budget).loss for budget in range(7, 21)]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("seed", range(4))
def test_eight_items_of_five_choices_are_solved_exactly(seed: int) -> None:
    draw = random.Random(seed)
    items = []
    for index in range(8):
        pairs = [(draw.randrange(2000), draw.randrange(2**20) / 2**20) for _ in range(5)]
        items.append(Item(f"item {index}", tuple(Choice("A", *pair) for pair in pairs)))
    half, rest = (
        [(size, float(loss)) for size, loss in all_sums(some).items()]
        for some in (items[:4], items[4:])
    )
    frontier = Frontier(items)
    for budget in draw.sample(range(frontier.smallest.bytes, frontier.largest.bytes), 12):
        least = min(
            one + other for size, one in half for more, other in rest if size + more <= budget
        )
        assert frontier.within(budget).loss == least


@settings(deadline=None, max_examples=100)
@given(items=lists_of(apart, 7), limits=st.tuples(st.integers(2, 6), st.integers(1, 6)))
def test_a_larger_budget_never_predicts_worse_even_where_much_is_left_out(
    items: list[Item], limits: tuple[int, int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gap, "_CHANGES", limits[0])
        patch.setattr(gap, "_SUMS", limits[1])
        frontier = Frontier(items)
        before = frontier.smallest
        for budget in range(before.bytes, frontier.largest.bytes + 2):
            allocation = frontier.within(budget)
            check(allocation, items, budget)
            assert allocation.loss <= before.loss
            assert allocation.bound <= before.bound
            before = allocation


MODEL = model(300)
FRONTIER = Frontier(MODEL)
budgets = st.integers(FRONTIER.smallest.bytes, FRONTIER.largest.bytes)


@settings(deadline=None, max_examples=25)
@given(st.lists(budgets, min_size=2, max_size=6), st.integers(1, 2**20))
def test_a_larger_budget_never_predicts_worse_for_a_model(asked: list[int], more: int) -> None:
    asked = sorted({*asked, asked[0] + more})
    allocations = [FRONTIER.within(budget) for budget in asked]
    for budget, allocation in zip(asked, allocations, strict=True):
        check(allocation, MODEL, budget)
        same = FRONTIER.under(allocation.loss)
        assert (same.loss, same.bytes) == (allocation.loss, allocation.bytes)
    assert all(one.loss >= other.loss for one, other in pairwise(allocations))


def test_many_items_are_solved_nearly_and_fill_the_budget() -> None:
    items = model(1000)
    frontier = Frontier(items)
    smallest, largest = frontier.smallest.bytes, frontier.largest.bytes
    for part in (0.01, 0.1, 0.25, 0.4, 0.5):
        budget = int(smallest + part * (largest - smallest)) + 12345
        allocation = frontier.within(budget)
        check(allocation, items, budget)
        assert allocation.bytes > 0.999 * budget
        assert allocation.loss < 1.001 * allocation.bound


def test_what_was_asked_before_changes_nothing() -> None:
    asked = [FRONTIER.steps[index].bytes + 1000 for index in range(100, 2000, 150)]
    upwards, downwards = Frontier(MODEL), Frontier(MODEL)
    one = [upwards.within(budget) for budget in asked]
    other = [downwards.within(budget) for budget in reversed(asked)]
    assert one == other[::-1]


def test_each_step_makes_one_item_larger() -> None:
    chosen = dict(FRONTIER.smallest.choices)
    prices = []
    size, loss = FRONTIER.smallest.bytes, FRONTIER.smallest.loss
    for step in FRONTIER.steps:
        name = MODEL[step.item].name
        assert step.choice in MODEL[step.item].choices
        assert step.choice.bytes > chosen[name].bytes
        prices.append((chosen[name].loss - step.choice.loss) / (step.bytes - size))
        chosen[name] = step.choice
        assert step.bytes == sum(choice.bytes for choice in chosen.values())
        assert step.loss == math.fsum(choice.loss for choice in chosen.values()) < loss
        size, loss = step.bytes, step.loss
    assert chosen == FRONTIER.largest.choices
    assert all(other <= one * (1 + 1e-9) for one, other in pairwise(prices))
    for index in range(0, len(FRONTIER.steps) - 1, 97):
        allocation = FRONTIER.within(FRONTIER.steps[index].bytes)
        assert allocation.loss == allocation.bound == FRONTIER.steps[index].loss
        assert allocation.price == pytest.approx(prices[index + 1], rel=1e-6)


def test_what_the_largest_leaves_of_a_budget_buys_nothing() -> None:
    allocation = FRONTIER.within(10**18)
    assert allocation == FRONTIER.largest
    assert allocation.price == 0
    assert allocation.bound == allocation.loss


TWO = [Item("one", (Choice("small", 10, 3.1), Choice("large", 30, 1.1)))]


def test_the_price_and_the_bound_of_two_choices() -> None:
    allocation = Frontier(TWO).within(25)
    assert allocation.choices["one"].type == "small"
    assert allocation.price == pytest.approx(0.1)
    assert allocation.bound == pytest.approx(1.6)
    assert Frontier(TWO).under(2.9).choices["one"].type == "large"


def test_a_loss_that_cannot_be_reached() -> None:
    frontier = Frontier(TWO)
    with pytest.raises(LossError, match=r"is 1\.1, and at most 0\.5 is asked for") as caught:
        frontier.under(0.5)
    assert caught.value.least == 1.1
    assert isinstance(caught.value, PlanError)
    assert frontier.under(math.inf) == frontier.smallest


def test_a_budget_that_is_too_small_names_the_smallest() -> None:
    frontier = Frontier([Item("one", (Choice("small", 1000, 3.0),))])
    with pytest.raises(BudgetError, match="takes 1,000 bytes, and at most 999 are asked for"):
        frontier.within(999)


def test_nothing_to_choose() -> None:
    fixed = Item("fixed", (Choice("F32", 64, 0.0),))
    worse = Item("worse", (Choice("A", 10, 1.0), Choice("B", 10, 1.0), Choice("C", 11, 1.0)))
    frontier = Frontier([fixed, worse])
    assert frontier.steps == frontier.knees == []
    assert frontier.smallest == frontier.largest == frontier.within(1000)
    assert frontier.smallest.choices == {"fixed": fixed.choices[0], "worse": worse.choices[0]}
    assert Frontier([]).within(0) == Allocation({}, 0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -0.1])
def test_losses_that_are_not_losses(loss: float) -> None:
    with pytest.raises(ValueError, match="a finite loss"):
        Choice("A", 1, loss)


def test_items_that_are_not_items() -> None:
    with pytest.raises(ValueError, match="one has no choices"):
        Item("one", ())
    item = Item("one", (Choice("A", 1, 0.0),))
    with pytest.raises(ValueError, match="same name"):
        Frontier([item, item])
