"""The sensitivity of the demo's model that is kept in tests/golden, which anyone can make again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support import goldens

import apex
from apex import Wish
from apex.sensitivity import Sensitivity, check_model, load_sensitivity
from apex.sensitivity.anchors import ANCHOR_BITS
from apex.sources import open_model


def close(kl: float, error: float) -> object:
    """Other instruction sets add in another order, which flips the routing of some tokens."""
    return pytest.approx(kl, rel=0.2, abs=2 * error)


@pytest.fixture(scope="module")
def kept() -> Sensitivity:
    return load_sensitivity(goldens.SENSITIVITY)


def test_it_is_the_demos_and_complete(demo_model: Path, kept: Sensitivity) -> None:
    check_model(kept, open_model(demo_model))
    assert kept.is_complete and len(kept.anchors) == len(ANCHOR_BITS)
    assert kept.resident_type == "F16" and kept.imatrix == ""


def test_nothing_of_where_it_was_made_is_in_it() -> None:
    text = goldens.SENSITIVITY.read_text(encoding="utf-8")
    assert json.loads(text)["model"]["name"] == "demo.gguf"
    assert not re.search(r'"[^"]*[/\\][^"]*"', text)
    assert "threads" not in text


def test_it_is_what_is_measured(demo_model: Path, kept: Sensitivity, tmp_path: Path) -> None:
    goldens.measure_demo(demo_model, tmp_path / "new.json")
    new = load_sensitivity(tmp_path / "new.json")
    assert (new.model.tensors, new.text, new.settings) == (
        kept.model.tensors,
        kept.text,
        {**kept.settings, "apex": new.settings["apex"]},
    )
    assert new.model.samples == pytest.approx(kept.model.samples)
    assert new.errors.keys() == kept.errors.keys()
    for name, by_type in kept.errors.items():
        assert new.errors[name] == pytest.approx(by_type, rel=0.01)
    for ours, theirs in zip(new.groups, kept.groups, strict=True):
        assert (ours.name, ours.kind, ours.layer, ours.tensors) == (
            *(theirs.name, theirs.kind, theirs.layer, theirs.tensors),
        )
        for one, other in zip(ours.probes, theirs.probes, strict=True):
            assert one.type == other.type
            assert one.distance == pytest.approx(other.distance, rel=0.01)
            assert one.kl == close(other.kl, other.error)
    for anchor, other in zip(new.anchors, kept.anchors, strict=True):
        assert anchor.name == other.name
        assert anchor.kl == close(other.kl, other.error)
    totals = [
        sum(probe.kl for group in each.groups for probe in group.probes) for each in (new, kept)
    ]
    assert totals[0] == pytest.approx(totals[1], rel=0.1)


def test_a_model_is_fitted_with_it(demo_model: Path) -> None:
    found = apex.fit(demo_model, goldens.SENSITIVITY, Wish(like="Q4_K_M"))
    assert found.budget is not None
    assert 0.999 * found.budget <= found.plan.file_bytes <= found.budget
    assert found.predicted is not None and found.loss is not None
    assert found.predicted != found.loss, "anchors correct it"
    rival = next(rival for rival in found.rivals if rival.name == "Q4_K_M")
    theirs = found.kl(rival.loss)
    assert theirs is not None and 0 < found.predicted < theirs
