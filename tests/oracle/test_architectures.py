"""Every architecture, every file type: whole files equal llama.cpp's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import imatrix
from support.architectures import ModelSpec, architectures, without_experts, write_model
from support.oracle import same_bytes

import apex
from apex import _core

pytestmark = pytest.mark.xdist_group("ggml")

MODELS = architectures()
FILE_TYPES = [file_type.name for file_type in _core.file_types()]

# One of four is enough for -m 'not slow': they still meet every file type and tier in turn.
NAMES = [
    pytest.param(name, marks=() if index % 4 == 0 else pytest.mark.slow)
    for index, name in enumerate(MODELS)
]

# llama.cpp has no fallback for rows that this type's blocks of 128 do not divide.
WITHOUT_FALLBACK = "Q1_0"


def rotated(index: int) -> list[str]:
    """One after the other, so that every file type meets several architectures; Q4_K_M all."""
    picked = [FILE_TYPES[(2 * index + step) % len(FILE_TYPES)] for step in range(2)]
    return list(dict.fromkeys(("Q4_K_M", *picked)))


@pytest.mark.parametrize("name", NAMES)
def test_file_types(tmp_path: Path, name: str) -> None:
    spec = MODELS[name]
    (model,) = write_model(tmp_path / "model.gguf", spec)
    entries = imatrix.random_imatrix(spec)
    matrix = tmp_path / "imatrix.gguf"
    imatrix.write_gguf(matrix, entries)
    weighted: dict[str, Any] = {
        "imatrix": matrix,
        "importance": imatrix.as_llama(entries),
        "imatrix_keys": imatrix.keys(matrix, entries),
    }
    for file_type in rotated(list(MODELS).index(name)):
        plan = same_bytes(model, tmp_path, file_type=file_type, **weighted)
        assert plan is not None or file_type == WITHOUT_FALLBACK
        # Without an importance matrix both refuse the smallest types.
        same_bytes(model, tmp_path, file_type=file_type)


@pytest.mark.parametrize("name", NAMES)
def test_tiers(tmp_path: Path, name: str) -> None:
    spec = MODELS[name]
    (model,) = write_model(tmp_path / "model.gguf", spec)
    entries = imatrix.random_imatrix(spec)
    matrix = tmp_path / "imatrix.gguf"
    imatrix.write_gguf(matrix, entries)
    tiers = apex.tiers()
    picked = {tiers[list(MODELS).index(name) % len(tiers)].name, "quality", "micro"}
    for tier in picked:
        recipe = apex.load_recipe(tier)
        wishes: dict[str, Any] = {"tier": tier, "edge_layers": 1, "near_layers": 1}
        if recipe.importance == "required":
            wishes |= {
                "imatrix": matrix,
                "importance": imatrix.as_llama(entries),
                "imatrix_keys": imatrix.keys(matrix, entries),
            }
        assert same_bytes(model, tmp_path, **wishes) is not None


@pytest.mark.parametrize(
    ("architecture", "experts", "changes"),
    [
        ("llama", 0, {"block_count": 80, "nextn_predict_layers": 0}),
        ("llama", 0, {"block_count": 80, "attention.head_count_kv": 4}),
        ("qwen2", 0, {"block_count": 80, "embedding_length": 8192}),
        ("llama", 8, {}),
        ("deepseek2", 8, {}),
        ("qwen35moe", 4, {"nextn_predict_layers": 0}),
        ("falcon", 0, {}),
    ],
)
@pytest.mark.parametrize("file_type", ["Q4_K_M", "Q3_K_M", "IQ4_XS", "Q5_K_M", "Q3_K_L"])
def test_rules_that_depend_on_the_size_of_the_model(
    tmp_path: Path, architecture: str, experts: int, changes: dict[str, Any], file_type: str
) -> None:
    """Layer counts, head counts and expert counts change the mixtures of llama.cpp."""
    spec = MODELS[architecture]
    metadata = dict(spec.metadata) if experts else without_experts(spec.metadata)
    if experts:
        metadata[f"{architecture}.expert_count"] = experts
    metadata |= {f"{architecture}.{key}": value for key, value in changes.items()}
    model = tmp_path / "model.gguf"
    write_model(model, ModelSpec(architecture, metadata, spec.tensors))
    assert same_bytes(model, tmp_path, file_type=file_type) is not None


def test_a_seventy_billion_model_gets_more_bits(tmp_path: Path) -> None:
    """The test above must not pass because nothing depends on anything."""
    spec = MODELS["llama"]
    types = []
    for layers in (79, 80):
        metadata = without_experts(spec.metadata)
        # Eighty layers with grouped queries are upstream's mark of a 70B model.
        metadata |= {"llama.block_count": layers, "llama.nextn_predict_layers": 0}
        write_model(tmp_path / "model.gguf", ModelSpec("llama", metadata, spec.tensors))
        plan = apex.plan(tmp_path / "model.gguf", file_type="IQ3_M")
        types.append([tensor.type for tensor in plan.tensors if "attn_v" in tensor.name])
    assert types[0] != types[1]
