"""Second moments: sums against numpy in the order of the rows."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from apex import _core


def in_order(rows: np.ndarray) -> np.ndarray:
    """The packed sum of x xᵀ, one row after the other, every step rounded to float32."""
    columns = rows.shape[1]
    total = np.zeros((columns, columns), np.float32)
    for row in rows:
        total += np.outer(row, row)
    return total[np.tril_indices(columns)]


def random_rows(rows: int, columns: int, seed: int = 1) -> np.ndarray:
    random = np.random.default_rng(seed)
    wide = 10.0 ** random.integers(-20, 18, columns)  # some products are subnormal
    return (random.standard_normal((rows, columns)) * wide).astype(np.float32)


@pytest.mark.parametrize("threads", [1, 7])
@pytest.mark.parametrize("shape", [(1, 1), (64, 32), (65, 33), (200, 100), (3, 257)])
def test_dense_sums(shape: tuple[int, int], threads: int) -> None:
    rows = random_rows(*shape)
    moments = _core.Moments(threads=threads)
    moments.add("a.weight", rows)
    moments.add("a.weight", rows[::-1])
    sums, counts = moments.entry("a.weight")
    assert sums.shape == (1, shape[1] * (shape[1] + 1) // 2)
    assert sums[0].tobytes() == in_order(np.concatenate([rows, rows[::-1]])).tobytes()
    assert counts.tolist() == [2 * shape[0]]


def test_routed_sums_do_not_depend_on_batches() -> None:
    rows = random_rows(500, 70)
    experts = np.random.default_rng(2).integers(0, 5, 500)
    experts[::3] = 1  # one of them often
    moments = _core.Moments()
    for first in range(0, 500, 90):
        part = slice(first, first + 90)
        moments.add("up", rows[part], experts[part], 6)
        moments.entry("up")  # asked for in between
    sums, counts = moments.entry("up")
    for expert in range(6):
        assert np.array_equal(sums[expert], in_order(rows[experts == expert])), expert
    assert counts.tolist() == np.bincount(experts, minlength=6).tolist()


_DIGEST = """
import hashlib, sys, numpy as np
from apex import _core
rows = np.random.default_rng(5).standard_normal((150, 77)).astype(np.float32)
moments = _core.Moments(threads=3)
moments.add("a", rows)
print(_core.active_isa(), hashlib.sha256(moments.entry("a")[0].tobytes()).hexdigest())
"""


def test_every_instruction_set_gives_the_same() -> None:
    seen = {}
    for isa in _core.available_isas():
        run = subprocess.run(
            [sys.executable, "-c", _DIGEST],
            env={**os.environ, "APEX_ISA": isa},
            capture_output=True,
            text=True,
            check=True,
        )
        used, digest = run.stdout.split()
        assert used == isa
        seen[isa] = digest
    assert len(set(seen.values())) == 1, seen


def test_equal_inputs_are_kept_once() -> None:
    rows = random_rows(10, 8)
    moments = _core.Moments()
    for _ in range(2):
        moments.add("q", rows)
        assert moments.add_same("k", "q")
        assert moments.add_same("v", "k")
    assert moments.inputs() == [("q", 8, 1, ""), ("k", 8, 1, "q"), ("v", 8, 1, "q")]
    assert moments.entry("q")[1].tolist() == [20]
    assert moments.entry("v")[0].size == 0
    with pytest.raises(RuntimeError, match="k had the same inputs as q"):
        moments.add("k", rows)
    moments.add("late", rows)
    assert not moments.add_same("late", "q")  # which has seen other rows before
    assert not moments.add_same("new", "q")
    assert not moments.add_same("new", "unknown")


def test_of_what_is_not_wanted_the_sizes_are_learned() -> None:
    moments = _core.Moments({"a"})
    moments.add("a", np.ones((2, 3), np.float32))
    moments.add("b", np.ones((2, 5), np.float32), [0, 3], 4)
    assert moments.inputs() == [("a", 3, 1, ""), ("b", 5, 4, "")]
    assert moments.entry("a")[0].tolist() == [[2] * 6]
    assert moments.entry("b")[0].size == 0
    with pytest.raises(IndexError):
        moments.entry("c")


def test_sums_are_views() -> None:
    moments = _core.Moments()
    moments.add("a", np.ones((1, 2), np.float32))
    sums, _ = moments.entry("a")
    moments.add("a", np.ones((1, 2), np.float32))
    moments.entry("a")
    assert sums.tolist() == [[2, 2, 2]]
    del moments
    assert sums.tolist() == [[2, 2, 2]]  # which keep what they are of


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_values_that_cannot_be_summed(value: float) -> None:
    rows = np.ones((3, 40), np.float32)
    rows[1, 37] = value
    moments = _core.Moments()
    with pytest.raises(_core.NonFiniteError, match="of blk"):
        moments.add("blk.3", rows)
        moments.entry("blk.3")


def test_sizes_that_differ() -> None:
    moments = _core.Moments()
    moments.add("a", np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match="another size"):
        moments.add("a", np.ones((2, 4), np.float32))
