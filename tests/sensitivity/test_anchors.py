"""Anchors: the best types at a few sizes, measured as files of them would run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.sensitivities import bits, sensitivity_of

import apex
from apex.errors import RunError
from apex.inference import Divergences, ResidentModel, RunOptions
from apex.sensitivity import Sensitivity, losses_of
from apex.sensitivity.anchors import ANCHOR_BITS, anchor_types, measure_anchors
from apex.sensitivity.errors import Candidate, candidates_of
from apex.sensitivity.probing import Prober
from apex.sources import open_model

RUN = RunOptions(context_length=32, batch_size=64, threads=1)


@pytest.fixture(scope="module")
def sensitivity(demo_model: Path) -> Sensitivity:
    return sensitivity_of(demo_model)


@pytest.fixture(scope="module")
def candidates(demo_model: Path) -> dict[str, Candidate]:
    return candidates_of(open_model(demo_model), None)


def bits_of(types: dict[str, str], candidates: dict[str, Candidate]) -> float:
    weights = {name: candidates[name].tensor.weights for name in types}
    return sum(bits(kind) * weights[name] for name, kind in types.items()) / sum(weights.values())


def test_each_is_the_best_of_its_size(
    sensitivity: Sensitivity, candidates: dict[str, Candidate]
) -> None:
    losses = losses_of(sensitivity)
    found = anchor_types(sensitivity, candidates)
    assert [float(name.split()[0]) for name in found] == list(ANCHOR_BITS)
    before = math.inf
    for wanted, (types, loss) in zip(ANCHOR_BITS, found.values(), strict=True):
        assert types.keys() == losses.keys()
        assert loss == pytest.approx(math.fsum(losses[name][types[name]] for name in types))
        size = bits_of(types, candidates)
        if wanted > 2.65:  # without importance Q2_K is the smallest, of 2.625 bits
            assert 0.98 * wanted < size <= wanted
        else:
            assert set(types.values()) == {"Q2_K"}
        for kind in ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K"):
            if all(kind in losses[name] for name in types) and bits(kind) <= size:
                assert loss <= math.fsum(losses[name][kind] for name in types)
        assert loss < before
        before = loss


def test_a_model_has_room_for_some_types_only(
    sensitivity: Sensitivity, candidates: dict[str, Candidate]
) -> None:
    """Of tensors that cannot be measured, or not as small, there are none."""
    few = {name: each for name, each in candidates.items() if name.startswith("blk.1.")}
    only = next(iter(few))
    few[only] = replace(few[only], types=("Q5_K", "Q4_K"))
    none = list(few)[1]
    few[none] = replace(few[none], types=())
    for types, _ in anchor_types(sensitivity, few).values():
        assert types.keys() == few.keys() - {none}
        assert types[only] in ("Q5_K", "Q4_K")


def measuring(model: Path, chunks: int) -> tuple[ResidentModel, Divergences, Prober]:
    file = open_model(model)
    resident = ResidentModel(file, RUN)
    random = np.random.default_rng(5)
    tokens = random.integers(3, 400, (chunks, RUN.context_length), dtype=np.int32)
    divergences = Divergences(resident, tokens)
    return (
        resident,
        divergences,
        Prober(file, None, candidates_of(file, None), resident, divergences),
    )


def test_what_is_measured_is_what_a_file_does(tiny_model: Path, tmp_path: Path) -> None:
    sensitivity = sensitivity_of(tiny_model)
    candidates = candidates_of(open_model(tiny_model), None)
    resident, divergences, prober = measuring(tiny_model, 4)
    anchors = measure_anchors(sensitivity, candidates, prober, 3)
    assert divergences.measure().max() < 1e-6, "all weights are given back"
    expected = anchor_types(sensitivity, candidates)
    assert [anchor.name for anchor in anchors] == list(expected)
    assert [anchor.kl for anchor in anchors] == sorted((a.kl for a in anchors), reverse=True)
    for anchor in (anchors[0], anchors[3]):
        types, loss = expected[anchor.name]
        path = tmp_path / f"{anchor.kl}.gguf"
        apex.quantize(apex.plan(tiny_model, file_type="Q8_0", types=types), path)
        divergences._resident = ResidentModel(open_model(path), RUN)
        means = divergences.measure(3).mean(axis=1)
        divergences._resident = resident
        assert anchor.loss == pytest.approx(loss, rel=1e-5)
        assert anchor.kl == pytest.approx(means.mean(), rel=1e-5)
        assert anchor.error == pytest.approx(means.std(ddof=1) / math.sqrt(3), rel=1e-5)


def test_one_chunk_has_no_error(tiny_model: Path) -> None:
    sensitivity = sensitivity_of(tiny_model)
    _, _, prober = measuring(tiny_model, 1)
    anchors = measure_anchors(sensitivity, candidates_of(open_model(tiny_model), None), prober, 1)
    assert {anchor.error for anchor in anchors} == {0.0}


def test_weights_are_given_back_whatever_happens(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, divergences, prober = measuring(tiny_model, 1)
    measure = Prober.measure

    def fail(self: Prober, start: int = 0, stop: int | None = None) -> np.ndarray:
        if measure(self, start, stop).max() > 1e-4:
            raise RunError("It failed.")
        raise AssertionError("the weights were not changed")

    monkeypatch.setattr(Prober, "measure", fail)
    with pytest.raises(RunError, match="It failed"):
        sensitivity = sensitivity_of(tiny_model)
        measure_anchors(sensitivity, candidates_of(open_model(tiny_model), None), prober, 1)
    assert divergences.measure().max() < 1e-6
