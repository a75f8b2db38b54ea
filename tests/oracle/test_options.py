"""llama-quantize's ways: every option gives the file that llama.cpp writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from support import imatrix
from support.architectures import ModelSpec, TensorSpec, architectures, write_model
from support.oracle import quantize_with_llama, same_bytes

import apex

pytestmark = pytest.mark.xdist_group("ggml")

MODELS = architectures()
SPEC = MODELS["qwen35moe"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("options") / "model.gguf"
    write_model(path, SPEC)
    return path


@pytest.mark.parametrize(
    ("options", "llama"),
    [
        ({"pure": True}, {"pure": True}),
        ({"leave_output_tensor": True}, {"quantize_output_tensor": False}),
        ({"output_tensor_type": "Q8_0"}, {"output_tensor_type": "Q8_0"}),
        ({"token_embedding_type": "Q5_K"}, {"token_embedding_type": "Q5_K"}),
        (
            {"tensor_types": [r"blk\.[01]\.ffn_up=q8_0", "FFN_=iq4_xs", "attn=Q3_K"]},
            {
                "tensor_types": [
                    (r"blk\.[01]\.ffn_up", "Q8_0"),
                    ("ffn_", "IQ4_XS"),
                    ("attn", "Q3_K"),
                ]
            },
        ),
        (
            {"tensor_types": ["output=q4_0"], "output_tensor_type": "Q6_K"},
            {"tensor_types": [("output", "Q4_0")], "output_tensor_type": "Q6_K"},
        ),
    ],
)
@pytest.mark.parametrize("file_type", ["Q4_K_M", "Q8_0", "IQ4_NL", "Q2_K"])
def test_types(
    model: Path, tmp_path: Path, options: dict[str, Any], llama: dict[str, Any], file_type: str
) -> None:
    plan = same_bytes(model, tmp_path, file_type=file_type, llama=llama, **options)
    assert plan is not None
    plain = apex.plan(model, file_type=file_type)
    changed = [a.type != b.type for a, b in zip(plan.tensors, plain.tensors, strict=True)]
    assert any(changed) or "pure" in options or file_type == "Q8_0"


def test_a_file_of_rules_comes_after_the_rules_of_the_command_line(
    model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "rules.txt"
    file.write_text("ffn_up=q5_k ffn_down=q6_k\nattn=q8_0\n")
    llama = {
        "tensor_types": [
            ("ffn_up", "Q4_0"),
            ("ffn_up", "Q5_K"),
            ("ffn_down", "Q6_K"),
            ("attn", "Q8_0"),
        ]
    }
    options = {"tensor_types": ["ffn_up=q4_0"], "tensor_type_file": file}
    assert same_bytes(model, tmp_path, file_type="Q3_K_M", llama=llama, **options) is not None


def test_metadata_overrides(model: Path, tmp_path: Path) -> None:
    overrides = {
        "general.name": "another name",
        "qwen35moe.expert_used_count": 1,
        "qwen35moe.rope.freq_base": 5e5,
        "some.flag": True,
        "some.negative": -3,
    }
    llama = {"overrides": list(overrides.items())}
    plan = same_bytes(model, tmp_path, file_type="Q4_K_M", llama=llama, overrides=overrides)
    assert plan is not None
    written = apex.open_model(tmp_path / "apex.gguf").metadata
    assert written["general.name"] == "another name"
    assert written["qwen35moe.rope.freq_base"] == 5e5
    assert written["some.flag"] is True


def test_the_file_type_can_depend_on_an_override(tmp_path: Path) -> None:
    (model,) = write_model(tmp_path / "model.gguf", MODELS["llama"])
    overrides = {"llama.expert_count": 8}
    llama = {"overrides": list(overrides.items())}
    plan = same_bytes(model, tmp_path, file_type="Q4_K_M", llama=llama, overrides=overrides)
    assert plan is not None
    assert [t.type for t in plan.tensors] != [
        t.type for t in apex.plan(model, file_type="Q4_K_M").tensors
    ]


def test_quantized_sources(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "q8.gguf"
    apex.quantize(model, source, file_type="Q8_0")
    with pytest.raises(apex.PlanError, match="quantized already"):
        apex.plan(source, file_type="Q4_K_M")
    llama = {"allow_requantize": True}
    for file_type in ("Q4_K_M", "F16", "Q8_0"):
        plan = same_bytes(source, tmp_path, file_type=file_type, llama=llama, allow_requantize=True)
        assert plan is not None
    # Nothing changes, so there is nothing to allow.
    assert same_bytes(source, tmp_path, file_type="Q8_0") is not None


@pytest.mark.parametrize("file_type", ["F32", "F16", "BF16"])
def test_types_without_blocks(model: Path, tmp_path: Path, file_type: str) -> None:
    assert same_bytes(model, tmp_path, file_type=file_type) is not None


def test_copying(model: Path, tmp_path: Path) -> None:
    llama = {"copy": True, "file_type": "F16"}
    assert same_bytes(model, tmp_path, file_type="COPY", llama=llama) is not None


@pytest.mark.parametrize("tier", [None, "quality"])
def test_shards_in_shards_out_and_joined(tmp_path: Path, tier: str | None) -> None:
    paths = write_model(tmp_path / "model.gguf", SPEC, shards=3)
    wish = {"tier": tier} if tier else {"file_type": "Q4_K_M"}
    assert same_bytes(paths[0], tmp_path, **wish) is not None  # into one file

    plan = apex.plan(paths[0], keep_split=True, **wish)
    rules = [tuple(line.split("=")) for line in plan.tensor_type_file().split()] if tier else []
    apex.quantize(plan, tmp_path / "ours.gguf")
    quantize_with_llama(
        str(paths[0]), str(tmp_path / "theirs"), plan.file_type, tensor_types=rules, keep_split=True
    )
    for index in range(1, 4):
        suffix = f"-{index:05d}-of-00003.gguf"
        ours, theirs = tmp_path / f"ours{suffix}", tmp_path / f"theirs{suffix}"
        assert ours.read_bytes() == theirs.read_bytes()


def test_new_shards_hold_the_same_tensors(model: Path, tmp_path: Path) -> None:
    whole = apex.plan(model, file_type="Q4_K_M")
    size = whole.tensor_bytes // 3
    result = apex.quantize(model, tmp_path / "out.gguf", file_type="Q4_K_M", split_max_size=size)
    assert len(result.paths) >= 3
    joined = apex.open_model(result.paths[0])  # checks numbers and counts of the shards
    apex.quantize(model, tmp_path / "whole.gguf", file_type="Q4_K_M")
    expected = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "whole.gguf").tensors}
    seen = 0
    for index, path in enumerate(result.paths):
        sizes = [tensor.bytes for tensor in result.plan.tensors if tensor.file == index]
        assert sum(sizes) <= size or len(sizes) == 1
        for tensor in gguf.GGUFReader(path).tensors:
            assert np.array_equal(tensor.data, expected[tensor.name].data)
            seen += 1
    assert seen == len(joined.tensors) == len(expected)
    # llama.cpp takes the shards for one model.
    quantize_with_llama(
        str(result.paths[0]), str(tmp_path / "again.gguf"), "Q8_0", allow_requantize=True
    )


@pytest.mark.parametrize("form", ["gguf", "dat"])
@pytest.mark.parametrize("wish", [{"file_type": "IQ2_M"}, {"tier": "nano"}, {"tier": "i-compact"}])
def test_importance_in_both_forms(
    model: Path, tmp_path: Path, form: str, wish: dict[str, str]
) -> None:
    entries = imatrix.random_imatrix(SPEC)
    matrix = tmp_path / f"imatrix.{form}"
    if form == "gguf":
        imatrix.write_gguf(matrix, entries)
        values = imatrix.as_llama(entries)
    else:
        imatrix.write_dat(matrix, entries)
        values = imatrix.as_llama_from_dat(entries)
    keys = imatrix.keys(matrix, entries)
    plan = same_bytes(model, tmp_path, imatrix=matrix, importance=values, imatrix_keys=keys, **wish)
    assert plan is not None


def test_an_entry_that_is_missing_where_it_is_not_needed(model: Path, tmp_path: Path) -> None:
    entries = imatrix.random_imatrix(SPEC)
    gone = [name for name in entries if "attn" in name]
    kept = {name: entry for name, entry in entries.items() if name not in gone}
    matrix = tmp_path / "imatrix.gguf"
    imatrix.write_gguf(matrix, kept)
    plan = same_bytes(
        model,
        tmp_path,
        file_type="Q4_K_M",
        imatrix=matrix,
        importance=imatrix.as_llama(kept),
        imatrix_keys=imatrix.keys(matrix, kept),
    )
    assert plan is not None
    assert any("have no entry" in note and "attn_" in note for note in plan.notes)


def test_a_projector_is_copied_unless_a_type_is_forced(tmp_path: Path) -> None:
    tensors = (
        TensorSpec("v.blk.0.attn_q.weight", (32, 256), "F16"),
        TensorSpec("v.blk.0.ln1.weight", (256,), "F32"),
        TensorSpec("mm.0.weight", (32, 256), "F16"),
    )
    metadata = {"general.type": "mmproj", "clip.has_vision_encoder": True}
    (model,) = write_model(tmp_path / "mmproj.gguf", ModelSpec("clip", metadata, tensors))
    result = apex.quantize(model, tmp_path / "out.gguf", tier="i-quality")
    assert (tmp_path / "out.gguf").read_bytes() == model.read_bytes()
    assert "projector" in result.plan.notes[0]
    plan = same_bytes(model, tmp_path, file_type="Q8_0")
    assert plan is not None
    assert [tensor.type for tensor in plan.tensors].count("Q8_0") == 2
    forced = (tmp_path / "apex.gguf").read_bytes()
    both = {tmp_path / "copy.gguf": apex.plan(model, tier="quality"), tmp_path / "q8.gguf": plan}
    apex.quantize_all(both)
    assert (tmp_path / "copy.gguf").read_bytes() == model.read_bytes()
    assert (tmp_path / "q8.gguf").read_bytes() == forced


def test_metadata_with_zero_bytes_and_another_alignment_survives(tmp_path: Path) -> None:
    """llama-quantize cuts texts at a zero byte, and pads to 32 whatever the file says."""
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_custom_alignment(128)
    for key, value in MODELS["llama"].metadata.items():
        if isinstance(value, int) and not isinstance(value, bool):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b\0c", "d"])
    weights = np.random.default_rng(0).standard_normal((3, 256)).astype(np.float32)
    writer.add_tensor("blk.0.attn_q.weight", weights)
    writer.add_tensor("token_embd.weight", weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    apex.quantize(tmp_path / "model.gguf", tmp_path / "out.gguf", file_type="Q8_0")
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    assert reader.fields["tokenizer.ggml.tokens"].contents() == ["a", "b\0c", "d"]
    for tensor in reader.tensors:
        assert tensor.data_offset % 128 == 0
        packed = gguf.quantize(weights, gguf.GGMLQuantizationType.Q8_0)
        assert np.array_equal(tensor.data, packed)
