"""A sensitivity is corrected by what is measured around a fitted file, and only for the better."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from support.sensitivities import bits, sensitivity_of

from apex import Wish
from apex.allocation import Item
from apex.fitting import Fitter, refining
from apex.fitting.judging import Judged, changed_types
from apex.fitting.refining import refine, scaled
from apex.planning import Plan
from apex.sensitivity import Sensitivity, losses_of

WISH = Wish(size=18 << 20)


class Truth:
    """A judge for whom every kind costs a factor more than predicted."""

    def __init__(self, sensitivity: Sensitivity, factors: Mapping[str, float]) -> None:
        self.losses = losses_of(scaled(sensitivity, factors))
        self.seen: list[dict[str, str]] = []

    def measure(self, types: Mapping[str, str]) -> Judged:
        self.seen.append(dict(types))
        kl = math.fsum(
            self.losses[name][kind] for name, kind in types.items() if name in self.losses
        )
        return Judged(kl, 0.0, kl, kl, np.full((2, 3), kl))

    def measure_plan(self, plan: Plan) -> Judged:
        return self.measure(changed_types(plan))


@pytest.fixture(scope="module")
def sensitivity(demo_model: Path) -> Sensitivity:
    return sensitivity_of(demo_model)


@pytest.fixture(scope="module")
def fitter(demo_model: Path, sensitivity: Sensitivity) -> Fitter:
    return Fitter(demo_model, sensitivity)


@pytest.fixture(scope="module")
def factors(sensitivity: Sensitivity) -> dict[str, float]:
    """By kind, from much less to much more."""
    kinds = sorted({group.kind for group in sensitivity.groups if group.probes})
    return {kind: 0.6 + 1.2 * number / (len(kinds) - 1) for number, kind in enumerate(kinds)}


def refined(
    fitter: Fitter,
    sensitivity: Sensitivity,
    fitting: Truth,
    apart: Truth,
    rounds: int = 1,
    progress: refining.Callable[[int, int, str], None] | None = None,
) -> refining.Refined:
    return refine(
        fitter.fit(WISH),
        sensitivity,
        lambda corrected: fitter.with_sensitivity(corrected).fit(WISH),
        fitting,  # type: ignore[arg-type]
        apart,  # type: ignore[arg-type]
        rounds,
        progress,
    )


# Rounds


def test_true_factors_are_found(
    fitter: Fitter, sensitivity: Sensitivity, factors: dict[str, float]
) -> None:
    truth = Truth(sensitivity, factors)
    result = refined(fitter, sensitivity, truth, truth)
    (only,) = result.rounds
    assert only.factors == pytest.approx(factors, rel=1e-6)
    assert only.is_kept
    assert result.judged.kl == only.after.kl < only.before.kl
    best = Fitter(fitter.source, scaled(sensitivity, factors)).fit(WISH)
    assert result.fit.types == best.types
    assert losses_of(result.sensitivity) == losses_of(scaled(sensitivity, only.factors))


def test_factors_of_one_round_are_bounded(fitter: Fitter, sensitivity: Sensitivity) -> None:
    kinds = sorted({group.kind for group in sensitivity.groups if group.probes})
    truth = Truth(sensitivity, {kinds[0]: 30.0, kinds[1]: 0.01})
    (only,) = refined(fitter, sensitivity, truth, truth).rounds
    assert only.factors[kinds[0]] == 2.0 and only.factors[kinds[1]] == 0.5
    assert only.factors[kinds[2]] == pytest.approx(1.0)


def test_what_does_not_do_better_is_not_kept(
    fitter: Fitter, sensitivity: Sensitivity, factors: dict[str, float]
) -> None:
    """The chunks for correcting say what is not true on those that decide."""
    apart = Truth(sensitivity, {})
    result = refined(fitter, sensitivity, Truth(sensitivity, factors), apart, rounds=3)
    (only,) = result.rounds  # no further attempt
    assert not only.is_kept and only.after.kl > only.before.kl
    assert result.sensitivity is sensitivity
    assert result.fit.types == fitter.fit(WISH).types
    assert result.judged == only.before


def test_rounds_follow_each_other(fitter: Fitter, sensitivity: Sensitivity) -> None:
    """What is beyond the bound of one round is found in the next."""
    kinds = sorted({group.kind for group in sensitivity.groups if group.probes})
    truth = Truth(sensitivity, {kinds[0]: 3.5})
    result = refined(fitter, sensitivity, truth, truth, rounds=2)
    first, second = result.rounds
    assert first.factors[kinds[0]] == 2.0
    assert second.factors[kinds[0]] == pytest.approx(1.75)
    assert second.before.kl == first.after.kl


def test_without_rounds(fitter: Fitter, sensitivity: Sensitivity) -> None:
    truth = Truth(sensitivity, {})
    result = refined(fitter, sensitivity, truth, truth, rounds=0)
    assert result.rounds == () and len(truth.seen) == 1


def sizes_of_hull(item: Item) -> list[int]:
    """Of the choices that no other, and no mixture of two others, is better than."""
    points = [(choice.bytes, choice.loss) for choice in item.choices]
    return [
        size
        for size, loss in points
        if not any(other <= size and less < loss for other, less in points)
        and not any(
            a + (b - a) * (size - low) / (high - low) < loss * (1 - 1e-9)
            for low, a in points
            for high, b in points
            if low < size < high
        )
    ]


def test_kinds_are_taken_a_step_up_and_down(fitter: Fitter, sensitivity: Sensitivity) -> None:
    """All tensors of a kind together, everything else, pinned tensors too, as in the plan."""
    steps: list[tuple[int, int, str]] = []
    truth = Truth(sensitivity, {})
    pinned = Fitter(fitter.source, sensitivity, tensor_types=["blk.3.attn_v=q8_0"])
    first = pinned.fit(WISH)
    refined(pinned, sensitivity, truth, Truth(sensitivity, {}), 1, lambda *step: steps.append(step))
    now, *moved = truth.seen
    items = {item.name: item for item in first.choices.items}
    assert now == changed_types(first.plan)
    assert now["blk.3.attn_v.weight"] == "Q8_0"
    by_kind: dict[str, list[int]] = defaultdict(list)
    for types in moved:
        changed = {name for name in now if types[name] != now[name]}
        assert types.keys() == now.keys() and "blk.3.attn_v.weight" not in changed
        kinds = {sensitivity.group_of[name].kind for name in changed}
        assert len(kinds) == 1
        ups = {bits(types[name]) > bits(now[name]) for name in changed}
        assert len(ups) == 1, "all in one direction"
        for name in changed:
            sizes = sizes_of_hull(items[name])
            size = {choice.type: choice.bytes for choice in items[name].choices}
            low, high = sorted((size[now[name]], size[types[name]]))
            assert size[types[name]] in sizes
            assert not any(low < between < high for between in sizes), "one step"
        by_kind[kinds.pop()].append(1 if ups.pop() else -1)
    chosen = {sensitivity.group_of[name].kind for name in first.types}
    assert by_kind.keys() <= chosen
    assert [1, -1] in by_kind.values()
    assert all(directions in ([1, -1], [1], [-1]) for directions in by_kind.values())
    done, counts, _ = zip(*steps, strict=True)
    assert list(done) == list(range(len(steps))) and set(counts) == {len(steps)}


# Factors


def test_a_factor_is_measured_over_predicted() -> None:
    assert refining._factor([(1.0, 1.5, 0.0)]) == pytest.approx(1.5)
    assert refining._factor([(-0.2, -0.15, 0.0)]) == pytest.approx(0.75)
    # The line through the origin that is nearest to both.
    assert refining._factor([(2.0, 3.0, 0.0), (-1.0, -1.0, 0.0)]) == pytest.approx(7 / 5)
    assert refining._factor([]) == 1.0
    assert refining._factor([(0.0, 0.3, 0.1)]) == 1.0


def test_a_factor_is_bounded() -> None:
    assert refining._factor([(1.0, 50.0, 0.0)]) == 2.0
    assert refining._factor([(1.0, 0.01, 0.0)]) == 0.5
    assert refining._factor([(1.0, -3.0, 0.0)]) == 0.5


def test_a_factor_is_drawn_to_1_where_it_is_uncertain() -> None:
    """By half of its logarithm where its relative error is what is thought of it anyway, 0.4."""
    assert refining._factor([(1.0, 1.5, 0.6)]) == pytest.approx(math.sqrt(1.5))
    assert refining._factor([(1.0, 0.6, 0.24)]) == pytest.approx(math.sqrt(0.6))
    factors = [refining._factor([(1.0, 1.5, noise)]) for noise in (0.0, 0.1, 1.0, 10.0)]
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] == pytest.approx(1.0, abs=0.01)
    twice = refining._factor([(1.0, 1.5, 0.6), (-1.0, -1.5, 0.6)])
    assert math.sqrt(1.5) < twice < 1.5, "two measurements are more certain"


# Sensitivities


def test_scaled(sensitivity: Sensitivity) -> None:
    kind = sensitivity.groups[0].kind
    more = scaled(sensitivity, {kind: 1.5})
    before, after = losses_of(sensitivity), losses_of(more)
    for name, by_type in before.items():
        factor = 1.5 if sensitivity.group_of[name].kind == kind else 1.0
        for type_name, loss in by_type.items():
            assert after[name][type_name] == pytest.approx(factor * loss, rel=1e-12)
    assert more.errors is sensitivity.errors and more.model is sensitivity.model
    probe, scaled_probe = sensitivity.groups[0].probes[0], more.groups[0].probes[0]
    assert scaled_probe.distance == probe.distance
    assert scaled_probe.kl == 1.5 * probe.kl
    assert scaled(sensitivity, {}) == sensitivity


def test_a_fitter_with_another_sensitivity(
    demo_model: Path, sensitivity: Sensitivity, factors: dict[str, float]
) -> None:
    fitter = Fitter(demo_model, sensitivity)
    before = {rival.name: rival.loss for rival in fitter.rivals}
    types = fitter.fit(WISH).types
    corrected = scaled(sensitivity, factors)
    other, made = fitter.with_sensitivity(corrected), Fitter(demo_model, corrected)
    assert other.losses == made.losses
    assert {rival.name: rival.loss for rival in other.rivals} == {
        rival.name: rival.loss for rival in made.rivals
    }
    found, expected = other.fit(WISH), made.fit(WISH)
    assert found.types == expected.types != types
    assert found.predicted == expected.predicted
    assert found.sensitivity is corrected
    # The first is as it was.
    assert fitter.sensitivity is sensitivity and fitter.fit(WISH).types == types
    assert {rival.name: rival.loss for rival in fitter.rivals} == before
