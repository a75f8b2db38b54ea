"""IQ4's levels: counting the points of equal distance finds what ggml finds by halving."""

from __future__ import annotations

import gguf
import numpy as np

LEVELS = np.array(gguf.quants.IQ4_NL.kvalues, dtype=np.float32)
POINTS = (LEVELS[:-1] + LEVELS[1:]) / 2


def halving(x: np.float32) -> int:
    """ggml: best_index_int8, in single precision."""
    if x <= LEVELS[0]:
        return 0
    if x >= LEVELS[-1]:
        return len(LEVELS) - 1
    low, high = 0, len(LEVELS) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if x < LEVELS[middle]:
            high = middle
        else:
            low = middle
    return high - 1 if x - LEVELS[high - 1] < LEVELS[high] - x else high


def test_the_points_are_exact() -> None:
    assert np.array_equal(2 * POINTS, np.round(2 * POINTS))


def test_every_float_beside_a_point_or_level() -> None:
    for middle in (*POINTS, *LEVELS):
        x = np.float32(middle)
        for _ in range(200):
            x = np.nextafter(x, np.float32(-np.inf))
        for _ in range(401):
            assert halving(x) == int((x >= POINTS).sum()), x
            x = np.nextafter(x, np.float32(np.inf))


def test_floats_of_all_sizes() -> None:
    random = np.random.default_rng(0)
    values = (random.standard_normal(20_000) * 10.0 ** random.uniform(-45, 38, 20_000)).astype("f4")
    values = np.concatenate([values, random.uniform(-140, 140, 20_000).astype("f4")])
    for x in values:
        assert halving(x) == int((x >= POINTS).sum()), x
