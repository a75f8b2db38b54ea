"""What is read of a folder, and when: for a plan headers, of a stack only the experts wanted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from support.huggingface import read_tensors, write_large, write_tensors

import apex
from apex.sources import HuggingFaceModel, open_huggingface

pytest.importorskip("torch", reason="apex-quant[hf] is not installed")
pytest.importorskip("transformers", reason="apex-quant[hf] is not installed")
pytestmark = pytest.mark.xdist_group("huggingface")

Watched = Callable[[HuggingFaceModel], list[int]]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Counts the bytes of every read from now on."""

    def watch(source: HuggingFaceModel) -> list[int]:
        sizes: list[int] = []
        read = source._read_range

        def counted(path: Path, offset: int, size: int) -> npt.NDArray[np.uint8]:
            sizes.append(size)
            return read(path, offset, size)

        for value in source._values.values():
            monkeypatch.setattr(value, "_read", counted)
        return sizes

    return watch


def test_a_plan_of_a_terabyte_reads_headers_only(tmp_path: Path, watched: Watched) -> None:
    size = write_large(tmp_path / "large", layers=140)
    assert size > 1e12
    source = open_huggingface(tmp_path / "large")
    sizes = watched(source)
    plan = apex.plan(source, tier="quality")
    assert sizes == []
    assert source.bytes > size
    assert 0.3 * size < plan.file_bytes < 0.6 * size
    assert (tmp_path / "large" / "model.safetensors").stat().st_blocks * 512 < 1e6


def read(source: HuggingFaceModel, name: str, first: int, count: int) -> None:
    tensor = next(each for each in source.tensors if each.name == name)
    source.read(tensor, first, memoryview(bytearray(count * tensor.row_bytes)))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["qwen3_moe", "deepseek_v3", "gpt_oss"])
def test_of_a_stack_only_the_experts_that_are_wanted_are_read(
    models_folder: Path, watched: Watched, model: str
) -> None:
    source = open_huggingface(models_folder / model)
    name = next(each.name for each in source.tensors if each.name.endswith("ffn_down_exps.weight"))
    tensor = next(each for each in source.tensors if each.name == name)
    expert, each = tensor.rows // tensor.experts, tensor.bytes // tensor.experts
    sizes = watched(source)
    read(source, name, 0, expert)
    assert sum(sizes) == each
    read(source, name, expert, tensor.rows - expert)
    assert sum(sizes) == tensor.bytes
    sizes.clear()
    for row in range(expert, 2 * expert):  # an expert is evaluated once, for all of its rows
        read(source, name, row, 1)
    assert sum(sizes) == each


def test_rows_of_a_plain_matrix_are_read_alone(llama_folder: Path, watched: Watched) -> None:
    source = open_huggingface(llama_folder / "llama")
    sizes = watched(source)
    read(source, "token_embd.weight", 100, 3)
    assert sizes == [3 * 64 * 2]


def test_what_is_permuted_is_evaluated_once(llama_folder: Path, watched: Watched) -> None:
    source = open_huggingface(llama_folder / "llama")
    sizes = watched(source)
    for row in range(64):
        read(source, "blk.0.attn_q.weight", row, 1)
    assert sizes == [64 * 64 * 2]
    read(source, "blk.0.attn_q.weight", 5, 1)  # nothing was kept after its last row
    assert len(sizes) == 2


def test_nothing_of_the_weights_is_kept(llama_folder: Path) -> None:
    source = open_huggingface(llama_folder / "llama")
    for tensor in source.tensors:
        source.read(tensor, 0, memoryview(bytearray(tensor.bytes)))

    def data_below(node: Any) -> int:
        arguments = getattr(node, "_args", ())
        return (getattr(node, "_data", None) is not None) + sum(map(data_below, arguments))

    assert sum(data_below(value._value) for value in source._values.values()) == 0
    assert not source._cache._parts


def test_weights_that_stay_are_those_that_upstream_evaluates(
    llama_folder: Path, tmp_path: Path
) -> None:
    """Whatever their bits: quiet and signalling NaN, infinities, numbers without a leading one."""
    import torch

    folder = Path(shutil.copytree(llama_folder / "llama", tmp_path / "llama"))
    tensors = read_tensors(folder)
    for name, tensor in tensors.items():
        bits = tensor.view(torch.int16)
        if bits.dim() == 2:
            bits.view(-1)[:4] = torch.tensor([1, 0x7F80, -0x80, -0x7FFF], dtype=torch.int16)
        if name.endswith(("q_proj.weight", "up_proj.weight")):
            bits.view(-1)[7:9] = torch.tensor([0x7F81, 0x7FC1], dtype=torch.int16)
    write_tensors(folder, tensors)
    source = open_huggingface(folder)
    stays = {name for name, value in source._values.items() if value._stays}
    assert {"token_embd.weight", "blk.0.attn_q.weight", "blk.1.ffn_up.weight"} <= stays
    for tensor in source.tensors:
        found = bytearray(tensor.bytes)
        source.read(tensor, 0, memoryview(found))
        value = source._values[tensor.name]._value
        expected = type(value).to_eager(value) if hasattr(value, "_meta") else value
        assert found == np.ascontiguousarray(expected).tobytes(), tensor.name


@pytest.mark.slow
def test_stacks_stay_too(models_folder: Path) -> None:
    source = open_huggingface(models_folder / "qwen3_moe")
    assert source._values["blk.0.ffn_down_exps.weight"]._stays
    assert not source._values["blk.0.ffn_gate_inp.weight"]._stays  # it becomes F32
