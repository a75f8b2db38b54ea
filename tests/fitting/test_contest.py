"""The fitted file is replaced by nothing but what measured better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.sensitivities import sensitivity_of

from apex import Constraints, Wish
from apex.fitting import Fit, Fitter
from apex.fitting.contest import Contest, contest
from apex.fitting.judging import Judged
from apex.planning import Plan
from apex.policy import Role


def judged(kl: float) -> Judged:
    return Judged(kl, kl / 10, 2 * kl, 3 * kl, np.full((2, 4), kl))


class Said:
    """A judge that finds what it is told of plans, by their names."""

    def __init__(self, found: Fit, values: Mapping[str, float]) -> None:
        self.values = values
        self.names = {rival.plan.fingerprint(): rival.name for rival in found.rivals}
        self.names[found.plan.fingerprint()] = "fit"
        self.asked: list[str] = []

    def measure_plan(self, plan: Plan) -> Judged:
        self.asked.append(self.names[plan.fingerprint()])
        return judged(self.values.get(self.asked[-1], 9.0))


@pytest.fixture(scope="module")
def fitter(demo_model: Path) -> Fitter:
    return Fitter(demo_model, sensitivity_of(demo_model))


@pytest.fixture(scope="module")
def found(fitter: Fitter) -> Fit:
    return fitter.fit(Wish(like="Q4_K_M"), "fit-compact")


def hold(found: Fit, **values: float) -> Contest:
    return contest(found, Said(found, values))  # type: ignore[arg-type]


# Who takes part


def test_challengers(demo_model: Path, found: Fit) -> None:
    """The largest tier and file type that are not larger, and what is predicted to be best."""
    names = {rival.name for rival in found.challengers}
    able = [rival for rival in found.rivals if rival.plan.file_bytes <= (found.budget or 0)]
    largest = {
        kind: max((each for each in able if each.kind == kind), key=lambda e: e.plan.file_bytes)
        for kind in {rival.kind for rival in able}
    }
    best = min((rival for rival in able if rival.loss is not None), key=lambda e: e.loss or 0.0)
    assert names == {rival.name for rival in (*largest.values(), best)}
    assert "Q4_K_M" in names
    assert len(found.challengers) == len(names), "none takes part twice"


def test_one_that_is_predicted_to_be_best_takes_part(found: Fit) -> None:
    small = next(rival for rival in found.rivals if rival.kind == "file type")
    assert small.name not in {rival.name for rival in found.challengers}
    good = replace(small, loss=1e-9)
    others = [rival for rival in found.rivals if rival is not small]
    assert good in replace(found, rivals=(good, *others)).challengers


def test_who_could_not_take_its_place_does_not_take_part(fitter: Fitter, found: Fit) -> None:
    floors = Constraints(floors={Role.ROUTED: "Q8_0"})
    assert replace(found, constraints=floors).challengers == ()
    smallest = found.rivals[0].plan.file_bytes
    tiny = fitter.plan(dict.fromkeys(found.types, "Q2_K"), "fit")
    assert tiny.file_bytes < smallest
    assert replace(found, plan=tiny, budget=tiny.file_bytes).challengers == ()


# Who wins


def test_the_fitted_file_stays_where_it_is_better(found: Fit) -> None:
    result = hold(found, fit=0.1)
    assert result.winner is None
    assert result.best is found.plan


def test_it_stays_where_a_rival_is_as_good(found: Fit) -> None:
    result = hold(found, fit=0.1, Q4_K_M=0.1)
    assert result.winner is None
    assert result.best is found.plan


def test_a_rival_that_is_predicted_but_not_measured_to_be_better(found: Fit) -> None:
    good = replace(found.challengers[0], loss=1e-9)
    rivals = tuple(good if rival.name == good.name else rival for rival in found.rivals)
    tempted = replace(found, rivals=rivals)
    assert tempted.better_rival == good
    assert hold(tempted, fit=0.1).best is found.plan


def test_the_best_rival_is_taken(found: Fit) -> None:
    first, second = (rival for rival in found.challengers[:2])
    result = hold(found, fit=0.1, **{first.name: 0.09, second.name: 0.0812345})
    assert result.winner is second
    best = result.best
    assert best.tier == "fit-compact"
    assert [t.type for t in best.tensors] == [t.type for t in second.plan.tensors]
    assert best.notes[-1] == (
        f"{second.name} is taken as it is, since its measured KL divergence is 0.0812 and that of "
        "the fitted types 0.1."
    )
    assert best.inputs == found.plan.inputs
    described = found.described(result.winner)
    assert described["taken"] == second.name
    assert found.to_dict()["taken"] is None


def test_the_gpus_memory_is_that_of_what_is_taken(fitter: Fitter) -> None:
    found = fitter.fit(Wish(vram=540 << 20))
    assert found.room is not None
    rival = next(rival for rival in found.rivals if rival.name == "Q4_K_M")
    weights = [found.described(taken)["gpu"]["weights"] for taken in (None, rival)]
    assert weights == [found.gpu_bytes(found.plan), found.gpu_bytes(rival.plan)]
    assert weights[0] != weights[1]


# What is told


def test_what_is_told(found: Fit) -> None:
    steps: list[tuple[int, int, str]] = []
    said = Said(found, {"fit": 0.1, "Q4_K_M": 0.3})
    result = contest(found, said, lambda *step: steps.append(step))  # type: ignore[arg-type]
    names = [rival.name for rival in found.challengers]
    assert said.asked == ["fit", *names]
    assert [step[0] for step in steps] == list(range(len(names) + 1))
    assert {step[1] for step in steps} == {len(names) + 1}
    assert [step[2] for step in steps[1:]] == names
    data = result.to_dict()
    assert list(data) == ["fit", *names]
    assert data["Q4_K_M"] == pytest.approx({"kl": 0.3, "error": 0.03, "p99.9": 0.6, "maximum": 0.9})
    assert data["fit"]["kl"] == 0.1


def test_without_challengers(found: Fit) -> None:
    result = hold(replace(found, rivals=()), fit=0.1)
    assert result.rivals == () and result.best is found.plan
    assert list(result.to_dict()) == ["fit"]
