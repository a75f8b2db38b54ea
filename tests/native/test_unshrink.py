"""Unshrinking: the levels stay, and the scales of a row are multiplied by its one factor."""

from __future__ import annotations

import numpy as np
import pytest

from apex import _core

# Where blocks have their scale and minimum, in bytes; typed in from ggml-common.h.
PLACES = {
    **{"Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,)},
    **{"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)},
    **{"IQ4_NL": (0,), "IQ4_XS": (0,), "IQ3_S": (0,), "IQ3_XXS": (0,)},
    **{"IQ2_S": (0,), "IQ2_XS": (0,), "IQ2_XXS": (0,), "IQ1_S": (0,)},
}
TYPES = [*PLACES, "IQ1_M"]
FACTS = {facts.name: facts for facts in _core.tensor_types()}
SHAPE = (2, 5, 512)  # experts, rows, columns

RANDOM = np.random.default_rng(3)
WEIGHTS = RANDOM.standard_normal(SHAPE).astype(np.float32)
IMPORTANCE = RANDOM.lognormal(0, 1, (2, 512)).astype(np.float32)

Array = np.ndarray


def blocks_of(data: Array, kind: str) -> Array:
    """uint8 (experts, rows, blocks, bytes)."""
    return data.reshape(*SHAPE[:2], -1, FACTS[kind].block_bytes)


def scales_of(data: Array, kind: str) -> Array:
    """float16 (experts, rows, blocks, scales)."""
    blocks = blocks_of(data, kind)
    if kind == "IQ1_M":
        words = np.ascontiguousarray(blocks[..., 48:56]).view(np.uint16) >> 12
        whole = words @ np.array([1, 16, 256, 4096], np.uint16)
        return whole.astype(np.uint16).view(np.float16)[..., np.newaxis]
    places = [np.ascontiguousarray(blocks[..., at : at + 2]) for at in PLACES[kind]]
    return np.concatenate([place.view(np.float16) for place in places], axis=-1)


def without_scales(data: Array, kind: str) -> Array:
    blocks = blocks_of(data, kind).copy()
    if kind == "IQ1_M":
        blocks[..., 49:56:2] &= 0x0F
    for at in PLACES.get(kind, ()):
        blocks[..., at : at + 2] = 0
    return blocks


def factors_by_hand(weights: Array, rounded: Array, importance: Array) -> Array:
    """float32 (experts, rows), summed one column after the other."""
    weighted = importance[:, np.newaxis].astype(np.float64) * weights
    squares = np.add.accumulate(weighted * weights, axis=-1)[..., -1]
    products = np.add.accumulate(weighted * rounded, axis=-1)[..., -1]
    return (squares / products).astype(np.float32)


def unshrunk(weights: Array, kind: str, importance: Array, before: Array, **more: int) -> Array:
    after = before.copy()
    _core.unshrink(weights, kind, importance, after, **more)
    return after


@pytest.mark.parametrize("kind", TYPES)
def test_scales_by_hand(kind: str) -> None:
    before = _core.quantize(WEIGHTS, kind, IMPORTANCE)
    after = unshrunk(WEIGHTS, kind, IMPORTANCE, before)
    assert np.array_equal(without_scales(after, kind), without_scales(before, kind))
    factors = factors_by_hand(WEIGHTS, _core.dequantize(before, kind), IMPORTANCE)
    scales = scales_of(before, kind).astype(np.float32)
    expected = (scales * factors[..., np.newaxis, np.newaxis]).astype(np.float16)
    assert np.array_equal(scales_of(after, kind), expected)
    if kind != "Q8_0":
        assert not np.array_equal(after, before)


@pytest.mark.parametrize("kind", TYPES)
def test_the_weights_of_a_row_have_their_size(kind: str) -> None:
    before = _core.quantize(WEIGHTS, kind, IMPORTANCE)
    after = unshrunk(WEIGHTS, kind, IMPORTANCE, before)
    left = factors_by_hand(WEIGHTS, _core.dequantize(after, kind), IMPORTANCE)
    assert np.abs(left - 1).max() < 2**-10  # what binary16 leaves of it


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("source", ["F16", "BF16"])
def test_threads_and_the_source_change_nothing(threads: int, source: str) -> None:
    stored = _core.quantize(np.tile(WEIGHTS, (1, 40, 1)), source)
    weights = _core.dequantize(stored, source)
    before = _core.quantize(weights, "Q2_K", IMPORTANCE)
    expected = unshrunk(weights, "Q2_K", IMPORTANCE, before, threads=1)
    after = before.copy()
    _core.unshrink(stored, "Q2_K", IMPORTANCE, after, src_type=source, threads=threads)
    assert np.array_equal(after, expected)


def test_one_importance_serves_all_experts() -> None:
    before = _core.quantize(WEIGHTS, "Q3_K", IMPORTANCE[0])
    twice = np.stack([IMPORTANCE[0], IMPORTANCE[0]])
    assert np.array_equal(
        unshrunk(WEIGHTS, "Q3_K", IMPORTANCE[0], before), unshrunk(WEIGHTS, "Q3_K", twice, before)
    )


def same(weights: Array, importance: Array, before: Array) -> Array:
    """By expert and row, whether the row is as it was."""
    after = unshrunk(weights, "Q2_K", importance, before)
    return (after == before).all(axis=-1)


def test_rows_of_which_nothing_is_known_are_left() -> None:
    weights, importance = WEIGHTS.copy(), IMPORTANCE.copy()
    weights[0, 0] = 0
    before = _core.quantize(weights, "Q2_K", importance)
    weights[0, 1] *= -1  # the products are negative
    weights[0, 2] *= 2.5  # not the rows that were quantized
    weights[0, 3] /= 2.5
    importance[1] = 0
    expected = [[True, True, True, True, False], [True] * 5]
    assert same(weights, importance, before).tolist() == expected


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "IQ1_M"])
@pytest.mark.parametrize("size", [60000, 2e-8])
def test_blocks_whose_scales_would_be_lost_are_left(kind: str, size: float) -> None:
    """The factor of a row is that of its large block; the scale of another is at the limit."""
    weights = np.ones((1, 1, 512), np.float32)
    before = _core.quantize(weights, kind, np.ones(512, np.float32)).reshape(1, 1, -1)
    blocks = before.reshape(-1, FACTS[kind].block_bytes)
    half = np.array([size], np.float16).view(np.uint8)
    if kind == "IQ1_M":
        blocks[-1, 49:56:2] &= 0x0F
        blocks[-1, 49:56:2] |= [
            half[0] << 4 & 0xF0,
            half[0] & 0xF0,
            half[1] << 4 & 0xF0,
            half[1] & 0xF0,
        ]
    else:
        blocks[-1, :2] = half
    rounded = _core.dequantize(before, kind)
    factor = 1.5 if size > 1 else 0.6
    weights = rounded * np.float32(factor)
    after = before.copy()
    _core.unshrink(weights, kind, np.ones(512, np.float32), after)
    made = after.reshape(blocks.shape)
    assert np.array_equal(made[-1], blocks[-1])
    _core.check(after, kind)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_weights_are_named_by_their_row(bad: float) -> None:
    before = _core.quantize(WEIGHTS, "Q4_K", IMPORTANCE)
    weights = WEIGHTS.copy()
    weights[1, 2, 7] = bad
    with pytest.raises(_core.BadDataError, match="NaN or infinite") as caught:
        _core.unshrink(weights, "Q4_K", IMPORTANCE, before)
    assert caught.value.row == 7


@pytest.mark.parametrize("kind", ["MXFP4", "TQ2_0", "F16"])
def test_types_without_such_scales_are_refused(kind: str) -> None:
    before = _core.quantize(WEIGHTS, kind, IMPORTANCE)
    with pytest.raises(ValueError, match=f"{kind} have no scales in binary16"):
        _core.unshrink(WEIGHTS, kind, IMPORTANCE, before.view(np.uint8))


def test_arguments_that_do_not_fit_are_refused() -> None:
    before = _core.quantize(WEIGHTS, "Q4_K", IMPORTANCE)
    with pytest.raises(ValueError, match="the output has"):
        _core.unshrink(WEIGHTS, "Q4_K", IMPORTANCE, before[:1])
    with pytest.raises(ValueError, match="the importance has 7 values"):
        _core.unshrink(WEIGHTS, "Q4_K", IMPORTANCE[0, :7].copy(), before)
    with pytest.raises(ValueError, match="finite and not negative"):
        _core.unshrink(WEIGHTS, "Q4_K", -IMPORTANCE, before)
