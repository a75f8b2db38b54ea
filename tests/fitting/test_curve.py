"""The frontier as data: every step is the file that a fit of its size would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.sensitivities import sensitivity_of

import apex
from apex import Constraints, Wish
from apex.fitting import Fit, Fitter, curve
from apex.reporting import frontier_page
from apex.sources import ModelFile, open_model

EVERYTHING = Wish(size=1 << 50)


def files(data: dict[str, Any]) -> list[tuple[int, float, dict[str, str]]]:
    """(bytes, KL, types) of the smallest file, and after each step."""
    names = [tensor["name"] for tensor in data["tensors"]]
    types = {
        name: data["types"][number]
        for name, number in zip(names, data["start"]["types"], strict=True)
    }
    result = [(data["start"]["bytes"], data["start"]["kl"], dict(types))]
    for tensor, kind, size, kl in data["steps"]:
        types[names[tensor]] = data["types"][kind]
        result.append((size, kl, dict(types)))
    return result


@pytest.fixture(scope="module")
def model(demo_model: Path) -> ModelFile:
    return open_model(demo_model)


@pytest.mark.parametrize("pairs", [False, True])
def test_every_file_of_the_curve(model: ModelFile, pairs: bool) -> None:
    constraints = Constraints(equal_pairs=pairs)
    rules = ["attn_k=q4_k"]
    fitter = Fitter(model, sensitivity_of(model), constraints, tensor_types=rules)
    found = fitter.fit(EVERYTHING)
    data = curve(found, model)
    made = files(data)
    sizes = [size for size, _, _ in made]
    assert sizes == sorted(sizes)
    places = {tensor["name"]: tensor["bytes"] for tensor in data["tensors"]}
    for size, kl, types in made:
        whole = data["fixed_bytes"] + sum(
            places[name][data["types"].index(kind)] for name, kind in types.items()
        )
        assert whole == size
        chosen = sum(found.losses[name][kind] for name, kind in types.items())
        pinned = kl - chosen
        assert pinned == pytest.approx(
            made[0][1] - sum(found.losses[name][kind] for name, kind in made[0][2].items()),
            abs=1e-12,
        )
    assert made[-1][1] == pytest.approx(found.predicted)
    assert made[-1][2] == found.types
    for size, kl, types in made[:: len(made) // 7]:
        exact = fitter.fit(Wish(size=size))
        if not pairs:
            assert exact.types == types
        assert exact.predicted == pytest.approx(kl, rel=1e-9) or pairs


def test_the_curve_is_what_the_page_draws(model: ModelFile) -> None:
    found = Fitter(model, sensitivity_of(model)).fit(EVERYTHING)
    data = curve(found, model)
    assert data["model"] == {
        "name": "demo",
        "architecture": "qwen35moe",
        "weights": model.weights,
        "source_bytes": model.bytes,
        "layers": 8,
    }
    assert "down experts" in {tensor["kind"] for tensor in data["tensors"]}
    assert {"Q4_K_M", "quality"} <= {mark["name"] for mark in data["marks"]}
    assert all(0 <= knee < len(data["steps"]) for knee in data["knees"])
    assert "<html" in frontier_page(data)
    assert None in data["tensors"][0]["bytes"] or len(data["types"]) > 5


def test_a_knee_is_the_end_of_a_step(model: ModelFile) -> None:
    """With pairs, the first of two tensors is no file that was meant."""
    found: Fit = apex.fit(model, sensitivity_of(model), EVERYTHING, Constraints(equal_pairs=True))
    data = curve(found, model)
    made = files(data)
    assert data["knees"]
    for knee in data["knees"]:
        types = made[knee + 1][2]
        gates = [name for name in types if "ffn_gate_exps" in name]
        assert gates
        assert all(types[name] == types[name.replace("gate", "up")] for name in gates)
