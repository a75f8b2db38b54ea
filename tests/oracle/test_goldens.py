"""Files and plans are what they were: tests/golden keeps their digests."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import goldens
from support.qwen35_35b import write_header

GOLDEN: dict[str, Any] = goldens.load(goldens.FILES)
PLANS: dict[str, list[str]] = goldens.load(goldens.PLANS)

# Cases that are quick, and meet every way of making a file.
QUICK = ("quality, widths 1", "mini, widths 1", "Q4_K_M in shards", "rules", "overrides")
CASES = [
    pytest.param(
        *(name, case),
        id=f"{name}: {case}",
        marks=() if name == "demo" and case in QUICK else pytest.mark.slow,
    )
    for name in goldens.WIDTHS
    for case in goldens.cases(name)
]


@pytest.fixture(scope="module")
def model_of(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The model of a name, with its importance matrix beside it."""

    @functools.cache
    def model_of(name: str) -> Path:
        original = request.getfixturevalue("demo_model" if name == "demo" else "shared_model")
        model = tmp_path_factory.mktemp(name) / "model.gguf"
        model.symlink_to(original)
        matrix = model.with_name(goldens.MATRIX)
        goldens.write_matrix(model, matrix)
        inputs = {"model": goldens.digest(model), "imatrix": goldens.digest(matrix)}
        if not inputs.items() <= GOLDEN[name].items():
            pytest.skip("numpy or gguf makes another model or importance matrix than the goldens'")
        return model

    return model_of


@pytest.mark.parametrize(("name", "case"), CASES)
def test_files_are_what_they_were(
    model_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, name: str, case: str
) -> None:
    model = model_of(name)
    monkeypatch.chdir(model.parent)
    found = goldens.make(model, goldens.cases(name)[case], Path("out.gguf"))
    assert found == GOLDEN[name]["files"][case]


@pytest.mark.parametrize("name", goldens.WIDTHS)
def test_every_case_has_a_golden_of_its_own(name: str) -> None:
    files = GOLDEN[name]["files"]
    assert set(files) == set(goldens.cases(name))
    assert all((len(digests) > 1) == ("in shards" in case) for case, digests in files.items())


@pytest.fixture(scope="module")
def large_header(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "large.gguf"
    write_header(path)
    return path


@pytest.mark.parametrize("tier", goldens.tier_names())
def test_the_plan_of_a_35b_model_is_what_it_was(large_header: Path, tier: str) -> None:
    place = PLANS["tiers"].index(tier)
    expected = {name: cells[place] for name, cells in PLANS.items() if name != "tiers"}
    assert goldens.plan_of(large_header, tier) == expected
