"""The curve through anchors: exact where they follow one, never falling, and its inverse."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from support.sensitivities import sensitivity_of

from apex.sensitivity import Anchor, Calibration, Sensitivity, calibration_of

LOSSES = (2.0, 0.7, 0.2, 0.05, 0.004)


@pytest.fixture(scope="module")
def sensitivity(dense_model: Path) -> Sensitivity:
    return sensitivity_of(dense_model)


def with_anchors(sensitivity: Sensitivity, points: list[tuple[float, float]]) -> Sensitivity:
    anchors = tuple(Anchor(f"{loss:g}", loss, kl, 0.0) for loss, kl in points)
    return replace(sensitivity, anchors=anchors)


@pytest.mark.parametrize("exponent", [0.7, 0.9, 1.0, 1.3])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.8])
@pytest.mark.parametrize("scale", [0.4, 1.0, 3.0])
def test_anchors_that_follow_a_curve(
    sensitivity: Sensitivity, exponent: float, share: float, scale: float
) -> None:
    """share: of the least KL divergence, what even the largest file has."""
    offset = share / (1 - share) * scale * LOSSES[-1] ** exponent
    points = [(loss, offset + scale * loss**exponent) for loss in LOSSES]
    found = calibration_of(with_anchors(sensitivity, points))
    assert found.exponent == pytest.approx(exponent)
    assert found.offset == pytest.approx(offset)
    assert found.scale == pytest.approx(scale)
    assert found.error < 1e-6
    for loss, kl in points:
        assert found.kl(loss) == pytest.approx(kl, rel=1e-9)
    between = 0.1
    assert found.kl(between) == pytest.approx(offset + scale * between**exponent, rel=1e-9)


def test_anchors_that_are_as_predicted_change_nothing(sensitivity: Sensitivity) -> None:
    found = calibration_of(with_anchors(sensitivity, [(loss, loss) for loss in LOSSES]))
    assert (found.offset, found.exponent) == (0.0, pytest.approx(1.0))
    assert found.kl(0.03) == pytest.approx(0.03, rel=1e-12)


@pytest.mark.parametrize(
    "points",
    [
        [],
        [(0.5, 0.9), (0.1, 0.3)],
        [(0.5, 0.9), (0.1, 0.3), (0.0, 0.1)],
        [(0.5, 0.9), (0.1, 0.3), (0.01, 0.0), (0.02, -0.001)],
    ],
)
def test_fewer_than_three_change_nothing(
    sensitivity: Sensitivity, points: list[tuple[float, float]]
) -> None:
    found = calibration_of(with_anchors(sensitivity, points))
    assert found == Calibration()
    for loss in (0.0, 0.01, 2.0):
        assert found.kl(loss) == found.loss(loss) == loss


def test_the_inverse() -> None:
    curve = Calibration(0.01, 1.7, 0.85)
    for loss in (1e-6, 0.003, 0.2, 4.0):
        assert curve.loss(curve.kl(loss)) == pytest.approx(loss, rel=1e-6)
    assert curve.kl(0.0) == 0.01
    assert curve.loss(0.01) == curve.loss(0.005) == curve.loss(0.0) == 0.0


@pytest.mark.parametrize("seed", range(8))
def test_it_never_falls(sensitivity: Sensitivity, seed: int) -> None:
    """Also where anchors are noisy, and then it is about as far from them as they are."""
    chance = random.Random(seed)
    noise = [math.exp(chance.gauss(0, 0.2)) for _ in LOSSES]
    points = [
        (loss, (0.003 + 1.4 * loss**0.9) * factor)
        for loss, factor in zip(LOSSES, noise, strict=True)
    ]
    found = calibration_of(with_anchors(sensitivity, points))
    curve = [found.kl(loss) for loss in (0.0, *sorted(LOSSES), 10.0)]
    assert curve == sorted(curve) and curve[1] > curve[0] >= 0
    distances = [math.log(found.kl(loss) / kl) for loss, kl in points]
    spread = math.sqrt(sum(distance**2 for distance in distances) / len(distances))
    assert found.error == pytest.approx(spread)
    true = math.sqrt(sum(math.log(factor) ** 2 for factor in noise) / len(noise))
    assert spread < 1.1 * true
