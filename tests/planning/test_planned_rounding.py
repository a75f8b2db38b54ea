"""Which tensors are rounded otherwise than llama.cpp does, and how a plan says so."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from support import imatrix
from support.architectures import architectures, write_model

import apex
from apex.errors import ImatrixError, PlanError, UsageError
from apex.planning import build_header
from apex.planning.rounding import UNSHRUNK_TYPES

SPEC = architectures()["qwen35moe"]
GAINS, DOES_NOT = "Q2_K", "Q8_0"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rounding") / "model.gguf"
    write_model(path, SPEC)
    return path


@pytest.fixture(scope="module")
def matrix(model: Path) -> Path:
    """With an entry for all matrices but one."""
    entries = imatrix.random_imatrix(SPEC)
    del entries["blk.0.ssm_out.weight"]
    path = model.with_name("imatrix.gguf")
    imatrix.write_gguf(path, entries)
    return path


def plan_of(model: Path, matrix: Path | None, rounding: str, **more: Any) -> apex.Plan:
    options = {"file_type": GAINS, "pure": True, "tensor_types": [f"attn_q={DOES_NOT}"]}
    return apex.plan(model, imatrix=matrix, rounding=rounding, **(options | more))


def test_tensors_that_gain_and_have_importance_are_unshrunk(model: Path, matrix: Path) -> None:
    assert GAINS in UNSHRUNK_TYPES
    assert DOES_NOT not in UNSHRUNK_TYPES
    plan = plan_of(model, matrix, "unshrunk")
    assert plan.rounding == "unshrunk"
    tensors = {tensor.name: tensor for tensor in plan.tensors}
    assert {tensor.rounding for tensor in plan.tensors if tensor.is_copied} == {"reference"}
    quantized = [tensor for tensor in plan.tensors if not tensor.is_copied]
    changed = [tensor for tensor in quantized if tensor.rounding == "unshrunk"]
    assert len(changed) > 5
    assert all(tensor.type in UNSHRUNK_TYPES and tensor.importance for tensor in changed)
    assert all(tensor.reason.endswith("; unshrunk") for tensor in changed)
    lacking = tensors["blk.0.ssm_out.weight"]
    assert lacking.rounding == "reference"
    assert lacking.reason.endswith("; reference: no importance")
    other = next(tensor for tensor in quantized if tensor.type == DOES_NOT)
    assert other.rounding == "reference"
    assert other.reason.endswith("; reference: Q8_0 does not gain")
    (note,) = (text for text in plan.notes if "unshrunk" in text)
    assert note.startswith(f"Of {len(quantized)} tensors to quantize, {len(changed)} will be")
    assert lacking.name in note
    assert "Q8_0" in note


def test_the_reference_is_the_default_and_leaves_no_trace(model: Path, matrix: Path) -> None:
    plan = plan_of(model, matrix, "reference")
    default = apex.plan(
        model, file_type=GAINS, pure=True, tensor_types=[f"attn_q={DOES_NOT}"], imatrix=matrix
    )
    assert plan == default
    assert plan.rounding == "reference"
    assert not any("unshrunk" in tensor.reason for tensor in plan.tensors)
    assert b"quantize.rounding" not in build_header(apex.open_model(model), plan, 0)


def test_the_header_names_the_rounding(model: Path, matrix: Path) -> None:
    plan = plan_of(model, matrix, "unshrunk")
    assert ("quantize.rounding", "str", "unshrunk") in plan.files[0].keys
    header = build_header(apex.open_model(model), plan, 0)
    assert b"quantize.rounding" in header


def test_where_nothing_gains_the_file_is_llama_cpps(model: Path, matrix: Path) -> None:
    plan = plan_of(model, matrix, "unshrunk", file_type=DOES_NOT, tensor_types=())
    plain = plan_of(model, matrix, "reference", file_type=DOES_NOT, tensor_types=())
    assert plan.rounding == "reference"
    assert plan.files == plain.files
    assert plan.fingerprint() == plain.fingerprint()
    assert any(
        ", 0 will be unshrunk; the others not: Q8_0 does not gain (" in note for note in plan.notes
    )


def test_another_rounding_is_another_fingerprint(model: Path, matrix: Path) -> None:
    first, second = (plan_of(model, matrix, name) for name in ("reference", "unshrunk"))
    assert first.fingerprint() != second.fingerprint()


def test_a_plan_survives_json_and_pickling(model: Path, matrix: Path) -> None:
    plan = plan_of(model, matrix, "unshrunk")
    assert apex.planning.plan_from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert plan.to_dict()["rounding"] == "unshrunk"


def test_plans_from_before_there_were_roundings_are_read(model: Path, matrix: Path) -> None:
    plan = plan_of(model, matrix, "reference")
    data = plan.to_dict()
    del data["rounding"], data["second_moments"]
    for tensor in data["tensors"]:
        del tensor["rounding"], tensor["moments"], tensor["few_rows"]
    assert apex.planning.plan_from_dict(data) == plan


def test_a_plan_of_an_unknown_rounding_is_damaged(model: Path, matrix: Path) -> None:
    data = plan_of(model, matrix, "unshrunk").to_dict()
    data["tensors"][0]["rounding"] = "upwards"
    with pytest.raises(PlanError, match="there is no rounding upwards"):
        apex.planning.plan_from_dict(data)
    data["tensors"][0]["rounding"] = "reference"
    with pytest.raises(PlanError, match="fingerprint"):
        apex.planning.plan_from_dict(data)


def test_it_needs_an_importance_matrix(model: Path) -> None:
    with pytest.raises(ImatrixError, match="The rounding unshrunk needs an importance") as caught:
        plan_of(model, None, "unshrunk")
    assert "--imatrix" in caught.value.hint
    assert plan_of(model, None, "unshrunk", sizes_only=True).is_sizes_only


def test_an_unknown_rounding_is_refused(model: Path) -> None:
    with pytest.raises(UsageError, match="There is no rounding unshrink") as caught:
        plan_of(model, None, "unshrink")
    assert caught.value.hint.startswith("did you mean unshrunk?")
