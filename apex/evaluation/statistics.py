"""Means, errors and percentiles, as llama.cpp's tools/perplexity defines them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "Divergence",
    "Measured",
    "Perplexity",
    "divergence_of",
    "mean",
    "perplexity_of",
    "share",
    "wilson",
]

Columns = dict[str, npt.NDArray[Any]]

# llama-perplexity gives no statistics over fewer positions.
MIN_POSITIONS = 100


@dataclass(frozen=True)
class Measured:
    """A number and its standard error."""

    value: float
    error: float

    def to_dict(self) -> dict[str, float]:
        """For JSON."""
        return {"value": self.value, "error": self.error}


@dataclass(frozen=True)
class Perplexity:
    """Perplexity over a text.

    Attributes:
        ppl: exp of the mean negative log-likelihood.
        positions: how many tokens were predicted.
        chunks: over how many chunks.
    """

    ppl: Measured
    positions: int
    chunks: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**self.ppl.to_dict(), "positions": self.positions, "chunks": self.chunks}


@dataclass(frozen=True)
class Divergence:
    """How far a model is from a reference, over a text. KL is in nats.

    Attributes:
        kl: mean KL divergence.
        kl_percentiles: by name, of the positions: minimum, 0.1 %, …, median, …, maximum.
        ppl, reference_ppl: both models' perplexities; the reference's from 16-bit
            log-probabilities, as in a llama-perplexity base file.
        log_ratio, ratio, difference: of the perplexities.
        correlation: of the models' negative log-likelihoods.
        same_top: share of positions where both find the same token the most likely.
        dp, dp_rms: difference of the probability of the token that follows.
        dp_percentiles: as for KL.
        positions: how many.
    """

    kl: Measured
    kl_percentiles: dict[str, float]
    ppl: Measured
    reference_ppl: Measured
    log_ratio: Measured
    ratio: Measured
    difference: Measured
    correlation: float
    same_top: Measured
    dp: Measured
    dp_rms: Measured
    dp_percentiles: dict[str, float]
    positions: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kl": {**self.kl.to_dict(), **self.kl_percentiles},
            "ppl": self.ppl.to_dict(),
            "reference_ppl": self.reference_ppl.to_dict(),
            "log_ratio": self.log_ratio.to_dict(),
            "ratio": self.ratio.to_dict(),
            "difference": self.difference.to_dict(),
            "correlation": self.correlation,
            "same_top": self.same_top.to_dict(),
            "dp": {**self.dp.to_dict(), **self.dp_percentiles},
            "dp_rms": self.dp_rms.to_dict(),
            "positions": self.positions,
        }


def perplexity_of(negative_log_likelihoods: npt.NDArray[np.float64], chunks: int) -> Perplexity:
    """The perplexity over all positions; 0 ± 0 without any."""
    count = len(negative_log_likelihoods)
    if not count:
        return Perplexity(Measured(0.0, 0.0), 0, 0)
    average = float(negative_log_likelihoods.sum()) / count
    variance = float((negative_log_likelihoods**2).sum()) / count - average * average
    ppl = math.exp(average)
    error = ppl * math.sqrt(variance / (count - 1)) if variance > 0 and count > 1 else 0.0
    return Perplexity(Measured(ppl, error), count, chunks)


def mean(total: float, total_of_squares: float, count: int) -> Measured:
    """A mean and its error; the error is 0 for so few values that it says nothing."""
    if count < 1:
        return Measured(0.0, 0.0)
    value = total / count
    variance = total_of_squares / count - value * value
    return Measured(value, math.sqrt(variance / (count - 1)) if variance > 0 and count > 10 else 0)


def share(successes: int, count: int) -> Measured:
    """A share of successes and its error."""
    p = successes / count if count else 0.0
    return Measured(p, math.sqrt(p * (1 - p) / (count - 1)) if count > 1 else 0.0)


def wilson(p: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    z = 1.95996398454
    squared = z * z / count
    half = squared * math.sqrt(count * (4.0 * p * (1 - p) + squared)) / (z + z)
    middle = p + squared * 0.5
    return (middle - half) / (1.0 + squared), (middle + half) / (1.0 + squared)


def divergence_of(columns: Columns) -> Divergence | None:
    """The statistics of positions that _core.Context.diverge compared; None for too few."""
    kl = columns["kl"]
    count = len(kl)
    if count < MIN_POSITIONS:
        return None
    nll, base = columns["negative_log_likelihood"], columns["base_negative_log_likelihood"]
    log_ppl, log_base = _mean_of(nll), _mean_of(base)
    # Products of floats are floats there, and their sums doubles.
    covariance = _total(nll * base) / count - _total(nll) / count * (_total(base) / count)
    covariance /= count - 1
    ppl = _exponential(log_ppl)
    base_ppl = _exponential(log_base)
    log_ratio = Measured(
        log_ppl.value - log_base.value,
        _root(log_ppl.error**2 + log_base.error**2 - 2 * covariance),
    )
    difference = Measured(
        ppl.value - base_ppl.value,
        _root(ppl.error**2 + base_ppl.error**2 - 2 * ppl.value * base_ppl.value * covariance),
    )
    dp = columns["probability_difference"]
    squares = (dp * dp).astype(np.float64)  # rounded to float first
    mse = mean(float(squares.sum()), float((squares**2).sum()), count)
    rms = math.sqrt(mse.value)
    errors = log_ppl.error * log_base.error
    return Divergence(
        kl=mean(_total(kl), _total(kl * kl), count),
        kl_percentiles=_percentiles(kl.astype(np.float32)),
        ppl=ppl,
        reference_ppl=base_ppl,
        log_ratio=log_ratio,
        ratio=_exponential(log_ratio),
        difference=difference,
        correlation=covariance / errors if errors else 1.0,
        same_top=share(int(columns["same_top"].sum()), count),
        dp=mean(_total(dp), float(squares.sum()), count),
        dp_rms=Measured(rms, 0.5 / rms * mse.error if rms else 0.0),
        dp_percentiles=_percentiles(dp),
        positions=count,
    )


def _mean_of(values: npt.NDArray[Any]) -> Measured:
    return mean(_total(values), _total(values * values), len(values))


def _total(values: npt.NDArray[Any]) -> float:
    return float(values.sum(dtype=np.float64))


def _exponential(logarithm: Measured) -> Measured:
    value = math.exp(logarithm.value)
    return Measured(value, value * logarithm.error)


def _root(value: float) -> float:
    return math.sqrt(value) if value > 0 else 0.0


_FRACTIONS = {
    "p0.1": 0.001,
    "p1": 0.01,
    "p5": 0.05,
    "p10": 0.1,
    "p25": 0.25,
    "p75": 0.75,
    "p90": 0.9,
    "p95": 0.95,
    "p99": 0.99,
    "p99.9": 0.999,
}


def _percentiles(values: npt.NDArray[np.float32]) -> dict[str, float]:
    """In float32, as llama-perplexity computes them; the place in the sorted values too."""
    ordered = np.sort(values)
    size = len(ordered)
    half = np.float32(0.5)
    median = (
        half * (ordered[size // 2] + ordered[size // 2 - 1])
        if size % 2 == 0
        else ordered[size // 2]
    )
    result = {"minimum": float(ordered[0])}
    for name, fraction in _FRACTIONS.items():
        place = np.float32(fraction) * np.float32(size - 1)
        index = int(place)
        rest = place - np.float32(index)
        upper = ordered[min(index + 1, size - 1)]
        result[name] = float((np.float32(1) - rest) * ordered[index] + rest * upper)
    return result | {"median": float(median), "maximum": float(ordered[-1])}
