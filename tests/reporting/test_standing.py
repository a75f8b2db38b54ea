"""Where a file stands, in words."""

from __future__ import annotations

import math

import pytest

from apex.reporting.standing import CAUTION, PUBLISHED, compared_with_published, standing

# KL means of mudler/apex-quant's benchmark_results, typed in: Qwen3.6-35B, Coder-30B, Qwen3.5-35B,
# Qwen3.5-122B.
TYPED_IN = {
    "Q8_0": (0.0059, 0.0031, 0.0046, 0.0037),
    "i-balanced": (0.0103, 0.0074, 0.0078, 0.0075),
    "balanced": (0.0117, 0.0083, 0.0088, 0.0080),
    "i-quality": (0.0141, 0.0108, 0.0102, 0.0119),
    "quality": (0.0155, 0.0117, 0.0114, 0.0126),
    "i-compact": (0.0451, 0.0418, 0.0332, 0.0407),
    "compact": (0.0614, 0.0492, 0.0469, 0.0487),
    "mini": (0.0999, 0.0862, 0.0870, 0.1015),
}


def test_the_published_figures() -> None:
    ranges = {entry.name: (entry.lowest, entry.highest) for entry in PUBLISHED}
    assert ranges == {name: (min(all_), max(all_)) for name, all_ in TYPED_IN.items()}
    assert [entry.highest for entry in PUBLISHED] == sorted(e.highest for e in PUBLISHED)
    assert "other models and another text" in CAUTION


@pytest.mark.parametrize(
    ("kl", "words", "beside"),
    [
        (0.0, "very close", "is below all published ones, Q8_0 included"),
        (-1e-7, "very close", "is below all published ones"),
        (0.0043, "very close", "is like the published Q8_0 (0.0031 to 0.0059)"),
        (0.0065, "close", "between the published Q8_0 (up to 0.0059) and i-balanced (from 0.0074)"),
        (0.0110, "close", "like the published balanced and i-quality (0.0080 to 0.0141)"),
        (0.0115, "close", "like the published balanced, i-quality and quality (0.0080 to 0.0155)"),
        (0.02, "at some distance", "between the published quality (up to 0.0155) and i-compact"),
        (0.07, "far", "between the published compact (up to 0.0614) and mini (from 0.0862)"),
        (2.0, "very far", "is above all published ones, mini included (0.0862 to 0.1015)"),
    ],
)
def test_words(kl: float, words: str, beside: str) -> None:
    text = standing(kl, 0.9)
    assert text.startswith(f"{words} ") and beside in text
    assert beside in compared_with_published(kl)


def test_the_same_top_token() -> None:
    assert "another one at 2.7 % of the positions, about 1 in 37" in standing(0.01, 0.973)
    assert standing(3.0, 0.25).endswith(
        "the most likely token is another one at 75 % of the positions"
    )
    assert "the same everywhere" in standing(0.0, 1.0)
    assert "not a finite number" in standing(math.nan, 0.5)
