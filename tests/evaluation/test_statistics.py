"""Statistics by hand and against plain double arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest

from apex.evaluation.statistics import divergence_of, mean, perplexity_of, share, wilson


def test_perplexity_by_hand() -> None:
    result = perplexity_of(np.log(np.array([2.0, 8.0])), 1)
    assert result.ppl.value == pytest.approx(4)
    # The mean of the logarithms' squares, less the square of their mean, over n - 1.
    assert result.ppl.error == pytest.approx(4 * math.log(2))
    assert perplexity_of(np.array([]), 0).ppl.value == 0


def test_means_and_shares() -> None:
    values = np.arange(20.0)
    result = mean(values.sum(), (values**2).sum(), 20)
    assert result.value == pytest.approx(9.5)
    assert result.error == pytest.approx(values.std() / math.sqrt(19))
    assert mean(3.0, 5.0, 2).error == 0  # llama-perplexity gives none for up to ten values
    assert share(3, 4).value == 0.75
    assert share(3, 4).error == pytest.approx(math.sqrt(0.75 * 0.25 / 3))


def test_wilson_by_hand() -> None:
    low, high = wilson(0.5, 100)
    assert (low, high) == pytest.approx((0.4038, 0.5962), abs=1e-4)


def columns(count: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(4)
    base = random.gamma(2, 1, count).astype(np.float32)
    own = base + random.normal(0, 0.05, count).astype(np.float32)
    return {
        "kl": random.gamma(0.5, 0.01, count),
        "negative_log_likelihood": own,
        "base_negative_log_likelihood": base,
        "probability_difference": np.exp(-own) - np.exp(-base),
        "same_top": random.random(count) < 0.9,
    }


@pytest.mark.parametrize("count", [1001, 5000])
def test_divergence_against_numpy(count: int) -> None:
    data = columns(count)
    result = divergence_of(data)
    assert result is not None
    kl, dp = data["kl"], data["probability_difference"].astype(float)
    own = data["negative_log_likelihood"].astype(float)
    base = data["base_negative_log_likelihood"].astype(float)
    assert result.kl.value == pytest.approx(kl.mean())
    assert result.kl.error == pytest.approx(kl.std() / math.sqrt(count - 1))
    assert result.ppl.value == pytest.approx(math.exp(own.mean()))
    assert result.ratio.value == pytest.approx(math.exp((own - base).mean()))
    paired = (own - base).std() / math.sqrt(count - 1)  # the errors of both go together
    assert result.log_ratio.error == pytest.approx(paired, rel=1e-3)
    assert result.correlation == pytest.approx(np.corrcoef(own, base)[0, 1])
    assert result.same_top.value == pytest.approx(data["same_top"].mean())
    assert result.dp.value == pytest.approx(dp.mean(), abs=1e-9)
    assert result.dp_rms.value == pytest.approx(math.sqrt((dp**2).mean()))
    assert result.kl_percentiles["maximum"] == pytest.approx(kl.max())
    assert result.kl_percentiles["median"] == pytest.approx(np.median(kl))
    for name in ("p0.1", "p1", "p25", "p99", "p99.9"):
        expected = np.percentile(kl, float(name[1:]))
        assert result.kl_percentiles[name] == pytest.approx(expected, rel=1e-3, abs=1e-9), name


def test_too_few_positions() -> None:
    assert divergence_of(columns(99)) is None
