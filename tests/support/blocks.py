"""Blocks of every type that can be compensated, taken apart by numpy: ggml-common.h's layouts.

Every bit of a block is in one of the fields, so rows with equal fields have equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import gguf
import numpy as np

Array = np.ndarray
Codes = tuple[Array, ...]


@dataclass(frozen=True)
class Form:
    """A weight is d * (base + step * scale) * value - dmin * min."""

    weights: int  # of a block
    part: int  # weights under one scale
    base: float = 0
    step: float = 1
    scales: tuple[int, int] = (0, 0)  # least and most; equal where a block has d alone
    mins: tuple[int, int] | None = None
    levels: Array | None = None  # what a weight's level can be, ascending
    points: Array | None = None  # of a codebook
    is_signed: bool = False  # the weights of points have signs
    is_even: bool = False  # of eight signs, an even number is negative
    shifts: int = 0  # weights that IQ1 moves up or down together


@dataclass
class Rounded:
    """float32: by block, by part, by weight."""

    d: Array
    dmin: Array
    scale: Array
    min: Array
    value: Array  # of levels or points, with signs and shifts

    def fields(self) -> dict[str, Array]:
        return vars(self)


def _points(name: str) -> Array:
    book = getattr(gguf.quants, name)
    book.init_grid()
    return book.grid.reshape(book.grid_shape).astype(np.float32)


def _even(low: int, high: int) -> Array:
    return np.arange(low, high + 1, dtype=np.float32)


IQ4_LEVELS = np.array(gguf.quants.IQ4_NL.kvalues, np.float32)
FORMS = {
    "Q8_0": Form(32, 32, base=1, levels=_even(-127, 127)),
    "Q4_0": Form(32, 32, base=1, levels=_even(-8, 7)),
    "Q5_0": Form(32, 32, base=1, levels=_even(-16, 15)),
    "Q4_1": Form(32, 32, base=1, mins=(1, 1), levels=_even(0, 15)),
    "Q5_1": Form(32, 32, base=1, mins=(1, 1), levels=_even(0, 31)),
    "Q2_K": Form(256, 16, scales=(0, 15), mins=(0, 15), levels=_even(0, 3)),
    "Q3_K": Form(256, 16, base=-32, scales=(0, 63), levels=_even(-4, 3)),
    "Q4_K": Form(256, 32, scales=(0, 63), mins=(0, 63), levels=_even(0, 15)),
    "Q5_K": Form(256, 32, scales=(0, 63), mins=(0, 63), levels=_even(0, 31)),
    "Q6_K": Form(256, 16, scales=(-128, 127), levels=_even(-32, 31)),
    "IQ4_NL": Form(32, 32, base=1, levels=IQ4_LEVELS),
    "IQ4_XS": Form(256, 32, base=-32, scales=(0, 63), levels=IQ4_LEVELS),
    **{
        name: Form(
            *(256, part, base, 2 * base, (0, 15), None, None, _points(name)),
            is_signed=True,
            is_even=is_even,
        )
        for name, part, base, is_even in [
            ("IQ2_XXS", 32, 0.125, True),
            ("IQ2_XS", 16, 0.125, True),
            ("IQ2_S", 16, 0.125, False),
            ("IQ3_XXS", 32, 0.25, True),
            ("IQ3_S", 32, 1, False),
        ]
    },
    "IQ1_S": Form(256, 32, 1, 2, (0, 7), None, None, _points("IQ1_S"), shifts=32),
    "IQ1_M": Form(256, 16, 1, 2, (0, 7), None, None, _points("IQ1_S"), shifts=8),
}


def _half(b: Array, at: int) -> Array:
    """float32 (blocks, 1)."""
    return b[:, at : at + 2].astype(np.uint8).view(np.float16).astype(np.float32)


def _none(b: Array) -> Array:
    return np.zeros((len(b), 1))


def _words(b: Array, at: int, end: int, kind: str) -> Array:
    """int64 (blocks, words)."""
    return b[:, at:end].astype(np.uint8).view(kind).astype(np.int64)


def _split(b: Array, run: int, bits: int, count: int | None = None) -> Array:
    """The pieces of `bits` of each byte, of `run` bytes in a row the lowest first."""
    pieces = bits * np.arange(count or 8 // bits)
    parted = b.reshape(len(b), -1, 1, run) >> pieces[:, np.newaxis] & (1 << bits) - 1
    return parted.reshape(len(b), -1)


def _pieces(words: Array, bits: int, count: int) -> Array:
    """The lowest pieces of each word, one after the other."""
    parted = words[..., np.newaxis] >> bits * np.arange(count) & (1 << bits) - 1
    return parted.reshape(len(words), -1)


def _signs(seven: Array) -> Array:
    """+1 or -1 (blocks, weights), of seven bits for eight weights."""
    bits = _pieces(seven, 1, 7).reshape(*seven.shape, 7)
    return 1 - 2 * np.append(bits, bits.sum(-1, keepdims=True) % 2, -1).reshape(len(seven), -1)


def _q2_k(b: Array) -> Codes:
    return _half(b, 80), _half(b, 82), b[:, :16] & 15, b[:, :16] >> 4, _split(b[:, 16:80], 32, 2)


def _q3_k(b: Array) -> Codes:
    scale = _split(b[:, 96:104], 8, 4) | _split(b[:, 104:108], 4, 2) << 4
    level = _split(b[:, 32:96], 32, 2) | _split(b[:, :32], 32, 1) << 2
    return _half(b, 108), _none(b), scale, 0 * scale, level - 4


def _q4_k(b: Array) -> Codes:
    low, middle, high = b[:, 4:8], b[:, 8:12], b[:, 12:16]
    scale = np.append(low & 63, (high & 15) | low >> 6 << 4, 1)
    least = np.append(middle & 63, high >> 4 | middle >> 6 << 4, 1)
    level = _split(b[:, -128:], 32, 4)
    if b.shape[1] == 176:
        level = level | _split(b[:, 16:48], 32, 1) << 4
    return _half(b, 0), _half(b, 2), scale, least, level


def _q6_k(b: Array) -> Codes:
    level = (_split(b[:, :128], 64, 4) | _split(b[:, 128:192], 32, 2) << 4) - 32
    scale = (b[:, 192:208] ^ 128) - 128
    return _half(b, 208), _none(b), scale, 0 * scale, level


def _small(b: Array) -> Codes:
    """Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL and Q8_0, which differ in length."""
    size = b.shape[1]
    if size == 34:
        return _half(b, 0), _none(b), _none(b), _none(b), (b[:, 2:] ^ 128) - 128
    level = _split(b[:, -16:], 16, 4)
    if size in (22, 24):
        level = level | _pieces(_words(b, size - 20, size - 16, "<u4"), 1, 32) << 4
    if size in (20, 24):
        return _half(b, 0), -_half(b, 2), _none(b), _none(b) + 1, level
    return _half(b, 0), _none(b), _none(b), _none(b), level - (8 if size == 18 else 16)


def _iq4_nl(b: Array) -> Codes:
    d, dmin, scale, least, level = _small(b)
    return d, dmin, scale, least, IQ4_LEVELS[level + 8]


def _iq4_xs(b: Array) -> Codes:
    scale = _pieces(b[:, 4:8], 4, 2) | _pieces(_words(b, 2, 4, "<u2"), 2, 8) << 4
    return _half(b, 0), _none(b), scale, 0 * scale, IQ4_LEVELS[_split(b[:, 8:], 16, 4)]


def _pointed(name: str, d: Array, scale: Array, point: Array, signs: Array) -> Codes:
    points = FORMS[name].points
    assert points is not None
    value = signs * points[point].reshape(len(d), -1)
    return d, np.zeros_like(d), scale, 0 * scale, value


def _iq2_xxs(b: Array) -> Codes:
    words = _words(b, 2, 66, "<u4").reshape(-1, 8, 2)
    signs = _signs(_pieces(words[..., 1], 7, 4))
    point = _pieces(words[..., 0], 8, 4)
    return _pointed("IQ2_XXS", _half(b, 0), words[..., 1] >> 28, point, signs)


def _iq2_xs(b: Array) -> Codes:
    words = _words(b, 2, 66, "<u2")
    scale = _pieces(b[:, 66:], 4, 2)
    return _pointed("IQ2_XS", _half(b, 0), scale, words & 511, _signs(words >> 9))


def _iq2_s(b: Array) -> Codes:
    point = b[:, 2:34] | _pieces(b[:, 66:74], 2, 4) << 8
    signs = 1 - 2 * _pieces(b[:, 34:66], 1, 8)
    return _pointed("IQ2_S", _half(b, 0), _pieces(b[:, 74:], 4, 2), point, signs)


def _iq3_xxs(b: Array) -> Codes:
    words = _words(b, 66, 98, "<u4")
    signs = _signs(_pieces(words, 7, 4))
    return _pointed("IQ3_XXS", _half(b, 0), words >> 28, b[:, 2:66], signs)


def _iq3_s(b: Array) -> Codes:
    point = b[:, 2:66] | _pieces(b[:, 66:74], 1, 8) << 8
    signs = 1 - 2 * _pieces(b[:, 74:106], 1, 8)
    return _pointed("IQ3_S", _half(b, 0), _pieces(b[:, 106:], 4, 2), point, signs)


def _shifted(d: Array, scale: Array, point: Array, down: Array) -> Codes:
    """down: for every eight weights, 1 where they are moved down."""
    d, dmin, scale, least, value = _pointed("IQ1_S", d, scale, point, np.array(1))
    return d, dmin, scale, least, value + np.repeat(0.125 - 0.25 * down, 8, axis=1)


def _iq1_s(b: Array) -> Codes:
    words = _words(b, 34, 50, "<u2")
    point = b[:, 2:34] | _pieces(words, 3, 4) << 8
    return _shifted(_half(b, 0), words >> 12 & 7, point, np.repeat(words >> 15, 4, axis=1))


def _iq1_m(b: Array) -> Codes:
    words = _words(b, 48, 56, "<u2")
    d = ((words >> 12) << [0, 4, 8, 12]).sum(1, keepdims=True).astype(np.uint16)
    high = _pieces(b[:, 32:48], 4, 2)
    point = b[:, :32] | (high & 7) << 8
    return _shifted(d.view(np.float16), _pieces(words, 3, 4), point, high >> 3)


_READERS: dict[str, Callable[[Array], Codes]] = {
    **dict.fromkeys(("Q8_0", "Q4_0", "Q5_0", "Q4_1", "Q5_1"), _small),
    **{"Q2_K": _q2_k, "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q4_k, "Q6_K": _q6_k},
    **{"IQ4_NL": _iq4_nl, "IQ4_XS": _iq4_xs, "IQ2_XXS": _iq2_xxs, "IQ2_XS": _iq2_xs},
    **{"IQ2_S": _iq2_s, "IQ3_XXS": _iq3_xxs, "IQ3_S": _iq3_s, "IQ1_S": _iq1_s, "IQ1_M": _iq1_m},
}


def read(data: Array, kind: str, columns: int) -> Rounded:
    """uint8 (rows, bytes) of a type, taken apart."""
    rows, blocks = len(data), columns // FORMS[kind].weights
    codes = _READERS[kind](data.reshape(rows * blocks, -1).astype(np.int64))
    return Rounded(*(np.array(code, np.float32).reshape(rows, -1) for code in codes))
