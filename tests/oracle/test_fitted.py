"""Fitted files: every byte is llama-quantize's, under the types that are exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import imatrix
from support.architectures import architectures, write_model
from support.oracle import same_bytes
from support.sensitivities import sensitivity_of

import apex
from apex import Constraints, Wish
from apex.types import TYPES

pytestmark = pytest.mark.xdist_group("ggml")

MODELS = architectures()
# A hybrid MoE, a plain MoE, a dense and an MLA model.
NAMES = ("qwen35moe", "qwen3moe", "llama", "deepseek2")


def check(model: Path, folder: Path, plan: apex.Plan, **llama: Any) -> None:
    """Make the same file with llama.cpp, of the base and the exported rules alone."""
    rules = [tuple(line.split("=")) for line in plan.tensor_type_file().split()]
    made = same_bytes(
        model,
        folder,
        file_type=plan.file_type,
        tensor_types=plan.tensor_type_file().split(),
        llama={"tensor_types": rules},
        **llama,
    )
    assert made is not None
    assert [tensor.type for tensor in made.tensors] == [tensor.type for tensor in plan.tensors]
    apex.quantize(plan, folder / "fitted.gguf", overwrite=True)
    assert (folder / "fitted.gguf").read_bytes() == (folder / "llama.gguf").read_bytes()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("like", ["Q3_K_M", "Q4_K_M", "quality"])
def test_without_importance(tmp_path: Path, name: str, like: str) -> None:
    (model,) = write_model(tmp_path / "model.gguf", MODELS[name])
    found = apex.fit(model, sensitivity_of(model), Wish(like=like))
    check(model, tmp_path, found.plan)


@pytest.mark.parametrize("name", NAMES)
def test_with_importance(tmp_path: Path, name: str) -> None:
    """At the size of the smallest tier that is large enough, where many types are i-quants."""
    entries = imatrix.random_imatrix(MODELS[name])
    matrix = tmp_path / "matrix.gguf"
    imatrix.write_gguf(matrix, entries)
    (model,) = write_model(tmp_path / "model.gguf", MODELS[name])
    sensitivity = sensitivity_of(model, matrix)
    found = apex.fit(model, sensitivity, Wish(like="mini"), imatrix=matrix)
    used = {tensor.type for tensor in found.plan.tensors if TYPES[tensor.type].is_quantized}
    assert len(used) > 5 and any(name.startswith("IQ") for name in used)
    check(
        model,
        tmp_path,
        found.plan,
        imatrix=matrix,
        importance=imatrix.as_llama(entries),
        imatrix_keys=imatrix.keys(matrix, entries),
    )


def test_constraints_and_pins(tmp_path: Path) -> None:
    (model,) = write_model(tmp_path / "model.gguf", MODELS["qwen35moe"])
    found = apex.fit(
        model,
        sensitivity_of(model),
        Wish(like="Q5_K_M"),
        Constraints("k", equal_pairs=True),
        tensor_types=["attn_v=q8_0"],
    )
    assert not any(tensor.type.startswith("IQ") for tensor in found.plan.tensors)
    check(model, tmp_path, found.plan)
