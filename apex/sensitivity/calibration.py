"""From the sum of predicted losses to the KL divergence of a file, as anchors show it: pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

from apex.sensitivity.data import Sensitivity

__all__ = ["Calibration", "calibration_of"]

_FEWEST = 3
# What is tried. Sums of losses are nearly the KL divergence already.
_EXPONENTS = tuple(0.7 + 0.05 * step for step in range(13))
_OFFSETS = tuple(0.05 * step for step in range(20))


@dataclass(frozen=True)
class Calibration:
    """KL divergence in nats = offset + scale x loss ^ exponent.

    Attributes:
        offset: what a file costs beside the rounding of its weights: activations are quantized
            too, and some routing flips at any change.
        scale, exponent: how losses add up.
        error: how far anchors are from it, as a standard deviation of logarithms; 0 where there
            were too few to know.
    """

    offset: float = 0.0
    scale: float = 1.0
    exponent: float = 1.0
    error: float = 0.0

    def kl(self, loss: float) -> float:
        """The KL divergence of a file of this predicted loss."""
        return self.offset + self.scale * loss**self.exponent if loss > 0 else self.offset

    def loss(self, kl: float) -> float:
        """The predicted loss of a file of this KL divergence; 0 where no file has so little."""
        over = kl - self.offset
        return float((over / self.scale) ** (1 / self.exponent)) if over > 0 else 0.0


def calibration_of(sensitivity: Sensitivity) -> Calibration:
    """The curve that is nearest to the anchors, in logarithms; no change for fewer than three."""
    points = [(a.loss, a.kl) for a in sensitivity.anchors if a.loss > 0 and a.kl > 0]
    if len(points) < _FEWEST:
        return Calibration()
    least = min(kl for _, kl in points)
    candidates = [
        _fitted(points, share * least, exponent)
        for share, exponent in product(_OFFSETS, _EXPONENTS)
    ]
    # Of equals, the one that bends least.
    return min(candidates, key=lambda c: (round(c.error, 3), abs(c.exponent - 1), c.offset))


def _fitted(points: list[tuple[float, float]], offset: float, exponent: float) -> Calibration:
    """With the best scale for these: the mean of the logarithms' differences, over the offset."""
    logs = [math.log(kl - offset) - exponent * math.log(loss) for loss, kl in points]
    scale = math.exp(sum(logs) / len(logs))
    found = Calibration(offset, scale, exponent)
    squares = sum(math.log(found.kl(loss) / kl) ** 2 for loss, kl in points)
    return Calibration(offset, scale, exponent, math.sqrt(squares / len(points)))
