"""Plans of compensated rounding: which tensors have second moments, and which experts few rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import imatrix
from support.architectures import architectures, write_model
from support.moments import write_moments

import apex
from apex.errors import ApexError, ImatrixError, UsageError
from apex.files import load_second_moments
from apex.planning.moments import FEW_ROWS
from apex.quantizing.jobs import work_of
from apex.quantizing.workers import objectives

SPEC = architectures()["qwen35moe"]
TYPE = "Q2_K"
UP, GATE_UP, OUT = (
    "blk.0.ffn_up_exps.weight",
    "blk.0.ffn_gate_up_exps.weight",
    "blk.0.ssm_out.weight",
)

Counts = dict[str, list[int]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("moments") / "model.gguf"
    write_model(path, SPEC)
    return path


@pytest.fixture(scope="module")
def matrix(model: Path) -> Path:
    path = model.with_name("imatrix.gguf")
    imatrix.write_gguf(path, imatrix.random_imatrix(SPEC))
    return path


@pytest.fixture
def write(model: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes a second-moment file of these counts of rows; the columns can be others."""
    columns = {tensor.name: tensor.columns for tensor in apex.open_model(model).tensors}

    def made(counts: Counts, aliases: dict[str, str] | None = None, wider: int = 0) -> Path:
        path = tmp_path / "moments.gguf"
        entries = {}
        for name, rows in counts.items():
            width = columns.get(name, 8) + wider
            sums = np.zeros((len(rows), width * (width + 1) // 2), np.float32)
            entries[name] = sums, np.array(rows)
        write_moments(path, entries, aliases)
        return path

    return made


def plan_of(model: Path, matrix: Path | None, moments: Any, **more: Any) -> apex.Plan:
    options = {"file_type": TYPE, "pure": True, "rounding": "compensated"} | more
    return apex.plan(model, imatrix=matrix, second_moments=moments, **options)


def by_name(plan: apex.Plan) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in plan.tensors}


def test_tensors_with_second_moments_are_compensated(
    model: Path, matrix: Path, write: Callable[..., Path]
) -> None:
    path = write({UP: [500, FEW_ROWS - 1, FEW_ROWS, 0], OUT: [9000]}, {GATE_UP: UP})
    plan = plan_of(model, matrix, path)
    assert plan.rounding == "compensated"
    tensors = by_name(plan)
    compensated = {name for name, tensor in tensors.items() if tensor.rounding == "compensated"}
    assert compensated == {UP, GATE_UP, OUT}
    assert tensors[GATE_UP].moments == tensors[UP].moments
    assert (tensors[UP].moments.entry, tensors[UP].moments.few) == (UP, (1, 3))
    assert tensors[OUT].moments.few == ()
    assert plan.few_rows_experts == {UP: (1, 3), GATE_UP: (1, 3)}
    (note,) = (text for text in plan.notes if "fewer than" in text)
    assert "4 experts, in 2 tensors" in note
    assert f"{UP} (2 of 4)" in note
    other = tensors["blk.1.ffn_up_exps.weight"]
    assert (other.rounding, other.moments) == ("unshrunk", None)
    assert other.reason.endswith("; unshrunk: no second moments")
    assert any("3 will be compensated and" in text for text in plan.notes)


def test_the_plan_and_the_file_name_the_second_moments(
    model: Path, matrix: Path, write: Callable[..., Path]
) -> None:
    path = write({OUT: [9000]})
    plan = plan_of(model, matrix, path)
    assert plan.second_moments is not None
    assert plan.second_moments.path == str(path)
    assert plan.second_moments.digest == load_second_moments(path).digest
    assert str(path) in plan.inputs
    assert ("quantize.rounding", "str", "compensated") in plan.files[0].keys
    assert ("quantize.second_moments.file", "str", str(path)) in plan.files[0].keys
    assert plan == plan_of(model, matrix, load_second_moments(path))
    assert apex.planning.plan_from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_other_second_moments_are_another_fingerprint(
    model: Path, matrix: Path, write: Callable[..., Path]
) -> None:
    first = plan_of(model, matrix, write({OUT: [9000]}))
    second = plan_of(model, matrix, write({OUT: [9001]}))
    assert first.fingerprint() != second.fingerprint()


MISTAKES: dict[str, tuple[dict[str, Any], type[ApexError], str]] = {
    "no second moments": ({"second_moments": None}, UsageError, "needs second moments"),
    "second moments for nothing": (
        {"rounding": "unshrunk"},
        UsageError,
        "do nothing where the rounding is unshrunk",
    ),
    "no importance matrix": ({"imatrix": None}, ImatrixError, "compensated needs an importance"),
    "an importance matrix in their place": (
        {"second_moments": "imatrix"},
        ImatrixError,
        "is not a second-moment file",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_with_a_hint(
    model: Path, matrix: Path, write: Callable[..., Path], mistake: str
) -> None:
    changes, kind, message = MISTAKES[mistake]
    options = {"imatrix": matrix, "second_moments": write({OUT: [9]}), "rounding": "compensated"}
    options |= changes
    if options["second_moments"] == "imatrix":
        options["second_moments"] = matrix
    with pytest.raises(kind, match=message) as caught:
        apex.plan(model, file_type=TYPE, **options)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("counts", "wider", "message"),
    [
        ({OUT: [9], UP: [9, 9, 9]}, 0, "4 x 512 inputs and the file 3 x 512"),
        ({OUT: [9]}, 8, "1 x 256 inputs and the file 1 x 264"),
        ({"other.weight": [9]}, 0, "none of its 1 entries is for this model"),
    ],
)
def test_second_moments_of_another_model(
    model: Path,
    matrix: Path,
    write: Callable[..., Path],
    counts: Counts,
    wider: int,
    message: str,
) -> None:
    with pytest.raises(ImatrixError, match=message):
        plan_of(model, matrix, write(counts, wider=wider))


def test_the_plans_file_must_stay_what_it_was(
    model: Path, matrix: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    plan = plan_of(model, matrix, write({OUT: [9000]}))
    write({OUT: [9001]})
    with pytest.raises(ImatrixError, match="not the second-moment file of the plan"):
        apex.quantize(plan, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_objectives_of_few_experts_are_kept(
    model: Path, matrix: Path, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    monkeypatch.setattr(
        objectives.Objectives,
        "_objective",
        lambda _, entry, expert: made.append(expert) or (entry.name, expert),
    )
    path = write({UP: [500, 500, 500, 500], OUT: [9000]})
    plan = plan_of(model, matrix, path)
    targets = {work.tensor.name: work.targets[0] for work in work_of([plan])}
    known = objectives.Objectives({0: load_second_moments(path)})
    for expert in (0, 0, 1, 2, 0, 3):
        assert known.of(targets[UP], expert) == (UP, expert)
    assert made == [0, 1, 2, 3]
    assert known.of(targets[OUT], 0) == (OUT, 0)  # in the place of the one not used for longest
    assert known.of(targets[UP], 2) == (UP, 2)
    assert known.of(targets[UP], 1) == (UP, 1)
    assert made == [0, 1, 2, 3, 0, 1]
