"""Converted models against what upstream's own script writes, and against transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import huggingface
from support.huggingface import CONVERSIONS, TOKENS, name_of
from support.language import next_logits

import apex
from apex import _core
from apex.sources import HuggingFaceModel, ModelFile, open_huggingface

pytest.importorskip("torch", reason="apex-quant[hf] is not installed")
pytest.importorskip("transformers", reason="apex-quant[hf] is not installed")
pytestmark = pytest.mark.xdist_group("huggingface")

EVERY = [(make.__name__, options) for make, each in CONVERSIONS.items() for options in each]
OTHERS = [case for case in EVERY if case[0] != "llama"]


def options_of(options: tuple[str, ...]) -> dict[str, Any]:
    """Options of upstream's script as apex has them."""
    kind = options[options.index("--outtype") + 1] if "--outtype" in options else "auto"
    head = "none" if "--no-mtp" in options else "only" if "--mtp" in options else "keep"
    return {"out_type": kind, "as_projector": "--mmproj" in options, "mtp": head}


def check(folder: Path, output: Path, model: str, options: tuple[str, ...]) -> None:
    source = open_huggingface(folder / model, **options_of(options))
    result = apex.convert(source, output)
    expected = (folder / name_of(model, options)).read_bytes()
    assert output.read_bytes() == expected
    assert result.bytes == len(expected)
    assert [path.name for path in output.parent.iterdir()] == [output.name]
    check_rows(source, apex.open_model(output), expected)


def check_rows(source: HuggingFaceModel, file: ModelFile, data: bytes) -> None:
    """Rows can be read in any order and number."""
    assert source.tensors == file.tensors
    random = np.random.default_rng(0)
    for tensor in source.tensors:
        for _ in range(3):
            first, last = sorted(random.integers(0, tensor.rows, 2))
            rows = bytearray(min(last + 1 - first, 999) * tensor.row_bytes)
            source.read(tensor, int(first), memoryview(rows))
            place = file.offsets[tensor.name] + int(first) * tensor.row_bytes
            assert rows == data[place : place + len(rows)]


@pytest.mark.parametrize("options", CONVERSIONS[huggingface.llama])
def test_a_converted_llama_is_upstreams(
    llama_folder: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    check(llama_folder, tmp_path / "model.gguf", "llama", options)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "options"), OTHERS)
def test_a_converted_file_is_upstreams(
    models_folder: Path, tmp_path: Path, model: str, options: tuple[str, ...]
) -> None:
    check(models_folder, tmp_path / "model.gguf", model, options)


def check_logits(folder: Path, model: str) -> None:
    path = folder / name_of(model, ("--outtype", "f32"))
    ours = next_logits(_core.Model(str(path)), np.array(TOKENS, np.int32))
    theirs = np.load(folder / f"{model}.npy")
    assert np.abs(ours - theirs).max() < 0.01 * theirs.std()  # the cache is F16
    assert not np.allclose(ours[1:], theirs[:-1], atol=0.01 * theirs.std())


def test_libllama_says_of_a_llama_what_transformers_says(llama_folder: Path) -> None:
    check_logits(llama_folder, "llama")


@pytest.mark.slow
@pytest.mark.parametrize("model", [make.__name__ for make in huggingface.RUN[1:]])
def test_libllama_says_what_transformers_says(models_folder: Path, model: str) -> None:
    check_logits(models_folder, model)


def check_quantization(folder: Path, model: str, outputs: Path) -> None:
    options: Any = {"tier": "balanced", "backend": "cpu", "threads": 2}
    apex.quantize(folder / model, outputs / "direct.gguf", **options)
    apex.quantize(folder / name_of(model, ()), outputs / "twice.gguf", **options)
    assert (outputs / "direct.gguf").read_bytes() == (outputs / "twice.gguf").read_bytes()


def test_direct_quantization_of_a_llama_is_that_of_the_file(
    llama_folder: Path, tmp_path: Path
) -> None:
    check_quantization(llama_folder, "llama", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["qwen3_moe", "qwen3_next", "deepseek_fp8", "gpt_oss"])
def test_direct_quantization_is_that_of_the_file(
    models_folder: Path, tmp_path: Path, model: str
) -> None:
    check_quantization(models_folder, model, tmp_path)


def test_several_outputs_and_a_plan_that_was_kept(llama_folder: Path, tmp_path: Path) -> None:
    folder, file = llama_folder / "llama", llama_folder / name_of("llama", ())
    plans = {name: apex.plan(folder, tier=name) for name in ("quality", "balanced")}
    kept = tmp_path / "plan.json"
    kept.write_text(json.dumps(plans["quality"].to_dict()), encoding="utf-8")
    apex.quantize_all({tmp_path / f"{name}.gguf": plan for name, plan in plans.items()})
    apex.quantize(apex.load_plan(kept), tmp_path / "kept.gguf")
    for name in plans:
        apex.quantize(file, tmp_path / "expected.gguf", tier=name, overwrite=True)
        expected = (tmp_path / "expected.gguf").read_bytes()
        assert (tmp_path / f"{name}.gguf").read_bytes() == expected
    assert (tmp_path / "kept.gguf").read_bytes() == (tmp_path / "quality.gguf").read_bytes()


def test_verify_takes_the_folder(llama_folder: Path, tmp_path: Path) -> None:
    apex.quantize(llama_folder / "llama", tmp_path / "out.gguf", tier="balanced")
    report = apex.verify(tmp_path / "out.gguf", llama_folder / "llama")
    of_file = apex.verify(tmp_path / "out.gguf", llama_folder / name_of("llama", ()))
    assert report.to_dict() == of_file.to_dict()
    assert report.tensors
