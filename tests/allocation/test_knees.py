"""Knees of curves whose bends are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from apex.allocation import Choice, Frontier, Item
from apex.allocation.knees import knees


def curve(corners: dict[int, float]) -> tuple[list[int], list[float]]:
    """Losses whose logarithm goes straight from corner to corner."""
    sizes = list(range(max(corners) + 1))
    return sizes, np.exp(np.interp(sizes, list(corners), list(corners.values()))).tolist()


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        ({0: 0, 100: -5}, []),
        ({0: 0, 30: -4, 100: -5}, [30]),
        ({0: 0, 20: -7, 50: -9, 100: -10}, [20, 50]),
        ({0: 0, 70: -1, 100: -5}, []),  # it bends, but to where bytes buy more
    ],
)
def test_knees_are_where_the_curve_flattens(corners: dict[int, float], expected: list[int]) -> None:
    sizes, losses = curve(corners)
    assert knees(sizes, losses) == expected
    # Neither the units of bytes and losses nor an end at no loss at all change that.
    assert knees([7 * size + 3 for size in sizes], [loss / 9 for loss in losses]) == expected
    assert knees([*sizes, 1000], [*losses, 0.0]) == expected


def test_only_the_deepest_of_many_bends() -> None:
    corners = {10 * index: -math.sqrt(index) * 3 for index in range(40)}
    found = knees(*curve(corners))
    assert 1 <= len(found) <= 5
    assert found == sorted(found)


def test_the_knees_of_a_frontier_are_indexes_of_its_steps() -> None:
    types = [Choice("A", 10, 1.0), Choice("B", 20, 0.01), Choice("C", 80, 0.001)]
    frontier = Frontier([Item(name, tuple(types)) for name in "abcdefgh"])
    assert [frontier.steps[index].bytes for index in frontier.knees] == [160]
