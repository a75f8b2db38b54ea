"""What is read of a folder, and when: for a plan headers, of a stack only the experts wanted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from support.huggingface import write_large

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
