"""Sums of squared activations on a GPU: those of the processor, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from apex import _core

pytestmark = pytest.mark.gpu


def activations(rows: int, columns: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    sizes = 10.0 ** random.uniform(-8, 8, (rows, 1))
    return (random.standard_normal((rows, columns)) * sizes).astype(np.float32)


def same(here: _core.Accumulator, there: _core.Accumulator) -> None:
    expected, found = here.entries(), there.entries()
    assert expected.keys() == found.keys()
    for name, (sums, counts) in expected.items():
        assert np.array_equal(sums.view(np.uint32), found[name][0].view(np.uint32))
        assert np.array_equal(counts, found[name][1])


@pytest.mark.parametrize("columns", [1, 31, 128, 1000])
@pytest.mark.parametrize("experts", [0, 5])
def test_sums_are_those_of_the_processor(device: int, columns: int, experts: int) -> None:
    random = np.random.default_rng(columns)
    here, there = _core.Accumulator(), _core.Accumulator()
    for rows in (1, 40, 333):
        x = activations(rows, columns, rows)
        ids = random.integers(0, experts, rows).astype(np.int32) if experts else None
        here.add("a", x, ids, experts)
        there.add_by_way_of_device(device, "a", x, ids, experts)
        assert np.array_equal(here.counts()["a"], there.counts()["a"])
    same(here, there)


def test_sums_go_to_and_fro(device: int) -> None:
    """Rows here and there, and sums from before, as after a checkpoint."""
    here, there = _core.Accumulator(), _core.Accumulator()
    ids = np.arange(60, dtype=np.int32) % 7
    for both in (here, there):
        both.merge("a", np.full((7, 96), 0.1, np.float32), np.arange(7))
        both.merge("b", np.full((1, 96), 0.1, np.float32), np.array([3]))
    for seed in range(6):
        x = activations(60, 96, seed)
        here.add("a", x, ids, 7)
        here.add("b", x)
        if seed in (1, 2, 4):
            there.add_by_way_of_device(device, "a", x, ids, 7)
            there.add_by_way_of_device(device, "b", x)
        else:
            there.add("a", x, ids, 7)
            there.add("b", x)
        if seed == 4:
            same(here, there)
    same(here, there)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_sums_that_are_no_numbers_are_told(device: int, value: float) -> None:
    sums = _core.Accumulator()
    x = np.ones((20, 64), np.float32)
    x[7, 3] = value
    sums.add_by_way_of_device(device, "a", x)
    with pytest.raises(_core.NonFiniteError, match="activations of a"):
        sums.entries()


def test_other_sizes_than_before_are_refused(device: int) -> None:
    sums = _core.Accumulator()
    sums.add_by_way_of_device(device, "a", np.ones((20, 64), np.float32))
    with pytest.raises(ValueError, match="sizes"):
        sums.add_by_way_of_device(device, "a", np.ones((20, 32), np.float32))
