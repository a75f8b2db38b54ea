"""The errors of tensors as types, against numpy on what was dequantized."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from support.architectures import architectures, write_model
from support.imatrix import write_gguf
from support.llama import llama_tensors, write_llama

from apex import _core
from apex.files import ImportanceMatrix, load_imatrix
from apex.quantizing import RunSettings
from apex.sensitivity.errors import CANDIDATES, candidates_of, measure_tables, needs_importance
from apex.sources import Source, Tensor, open_model
from apex.types import TYPES

EXPERTS, DENSE, EMBEDDING = "blk.1.ffn_down_exps.weight", "blk.3.attn_v.weight", "token_embd.weight"
UNREACHED = 5


@pytest.fixture(scope="module")
def source(demo_model: Path) -> Source:
    return open_model(demo_model)


@pytest.fixture(scope="module")
def matrix(source: Source, tmp_path_factory: pytest.TempPathFactory) -> ImportanceMatrix:
    """Of two tensors; one expert was never chosen, the others more and more often."""
    random, entries = np.random.default_rng(2), {}
    for tensor in source.tensors:
        if tensor.name in (EXPERTS, DENSE):
            counts = np.arange(1, tensor.experts + 1, dtype=np.float32) ** 2
            sums = random.lognormal(size=(tensor.experts, tensor.columns)).astype(np.float32)
            sums *= counts[:, np.newaxis]
            if tensor.experts > 1:
                counts[UNREACHED] = sums[UNREACHED] = 0
            entries[tensor.name] = (sums, counts)
    path = tmp_path_factory.mktemp("matrix") / "imatrix.gguf"
    write_gguf(path, entries)
    return load_imatrix(path)


def tensor_named(source: Source, name: str) -> Tensor:
    return next(tensor for tensor in source.tensors if tensor.name == name)


def weights_of(source: Source, name: str) -> np.ndarray:
    """float32 (experts, rows, columns)."""
    tensor = tensor_named(source, name)
    data = np.empty(tensor.bytes, np.uint8)
    source.read(tensor, 0, data.data)
    shape = (tensor.experts, tensor.rows // tensor.experts, tensor.columns)
    return data.view(np.float16).astype(np.float32).reshape(shape)


def error_by_hand(
    weights: np.ndarray, type_name: str, importance: np.ndarray | None, counts: np.ndarray
) -> float:
    """Each expert quantized by itself; columns by importance, experts by how often chosen."""
    error = squares = 0.0
    for expert, part in enumerate(weights):
        values = None if importance is None else importance[expert]
        data = _core.quantize(part, type_name, values)
        back = gguf.quants.dequantize(
            np.asarray(data).reshape(len(part), -1), gguf.GGMLQuantizationType[type_name]
        )
        columns = np.ones(part.shape[1]) if values is None else values.astype(np.float64)
        before = part.astype(np.float64)
        error += counts[expert] * (columns * (back - before) ** 2).sum()
        squares += counts[expert] * (columns * before**2).sum()
    return error / squares


def test_errors_are_those_of_dequantized_weights(source: Source, matrix: ImportanceMatrix) -> None:
    every = candidates_of(source, matrix)
    candidates = {name: every[name] for name in (EXPERTS, DENSE, EMBEDDING)}
    tables = measure_tables(source, matrix, candidates, RunSettings(), sample=0)
    for name in candidates:
        weights = weights_of(source, name)
        counts, importance = np.ones(len(weights)), None
        if name in matrix.entries:
            entry = matrix.entries[name]
            counts = np.asarray(entry.counts, np.float64)
            reference = every[name].importance
            assert reference is not None
            importance = np.asarray(reference.values(matrix)).reshape(len(weights), -1)
        if len(weights) == 1:
            counts = np.ones(1)
        for type_name in ("Q8_0", "Q4_K", "IQ4_XS", "Q2_K"):
            expected = error_by_hand(weights, type_name, importance, counts)
            assert tables[name][type_name] == pytest.approx(expected, rel=1e-5), (name, type_name)


def test_a_sample_is_near_the_whole(source: Source) -> None:
    every = candidates_of(source, None)
    every = {name: every[name] for name in (EXPERTS, DENSE, EMBEDDING)}
    whole, sampled = (
        measure_tables(source, None, every, RunSettings(), sample=sample) for sample in (0, 1 << 15)
    )
    assert set(whole) == set(sampled)
    for name, errors in whole.items():
        for type_name, error in errors.items():
            assert sampled[name][type_name] == pytest.approx(error, rel=0.2), (name, type_name)


def test_candidates(source: Source, matrix: ImportanceMatrix) -> None:
    """All that llama.cpp quantizes; what needs importance only where there is some."""
    found = candidates_of(source, matrix)
    assert "output_norm.weight" not in found and "blk.0.ffn_gate_inp.weight" not in found
    order = [tensor.name for tensor in source.tensors if tensor.name in found]
    assert list(found) == order
    assert found[EXPERTS].types == CANDIDATES
    assert found[EMBEDDING].importance is None
    assert set(CANDIDATES) - set(found[EMBEDDING].types) == {
        *("IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS")
    }
    for name in CANDIDATES:
        assert needs_importance(name) == (name not in found[EMBEDDING].types)


def test_candidates_are_ordered_from_the_largest() -> None:
    sizes = [TYPES[name].block_bytes / TYPES[name].block_weights for name in CANDIDATES]
    assert sizes == sorted(sizes, reverse=True)


def test_zeros_have_no_error(tmp_path: Path) -> None:
    tensors = llama_tensors()
    tensors["blk.0.attn_q.weight"][:] = 0
    write_llama(tmp_path / "a.gguf", tensors)
    source = open_model(tmp_path / "a.gguf")
    tables = measure_tables(source, None, candidates_of(source, None), RunSettings(), sample=0)
    assert set(tables["blk.0.attn_q.weight"].values()) == {0.0}


def test_rows_that_fit_no_type(tmp_path: Path) -> None:
    """Such a tensor has no choice, and the others are measured all the same."""
    spec = architectures()["qwen3moe"]
    (path,) = write_model(tmp_path / "model.gguf", spec)
    model = open_model(path)
    found = candidates_of(model, None)
    odd = {tensor.name for tensor in model.tensors if tensor.columns == 80}
    assert odd and found and not odd & set(found)
    tables = measure_tables(model, None, found, RunSettings(), sample=0)
    assert set(tables) == set(found) and all(tables.values())
