"""The errors of tensors as types, against numpy on what was dequantized."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from support import moments
from support.architectures import architectures, write_model
from support.imatrix import write_gguf
from support.llama import llama_tensors, write_llama

from apex import _core
from apex.files import (
    ImportanceMatrix,
    MomentsEntry,
    SecondMoments,
    load_imatrix,
    load_second_moments,
)
from apex.quantizing import Objectives, RunSettings
from apex.sensitivity.data import Group
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


@pytest.fixture(scope="module")
def second_moments(source: Source, matrix: ImportanceMatrix) -> SecondMoments:
    """Of columns that move together, for two tensors; one expert had no input."""
    random, entries = np.random.default_rng(4), {}
    for name in (EXPERTS, DENSE):
        tensor = tensor_named(source, name)
        mixing = random.standard_normal((tensor.columns, tensor.columns)) / 16
        counts = random.integers(300, 900, tensor.experts)
        if tensor.experts > 1:
            counts[UNREACHED] = 0
        entries[name] = moments.entry_of(
            [random.standard_normal((count, tensor.columns)) @ mixing for count in counts]
        )
    path = Path(matrix.path).with_name("moments.gguf")
    moments.write_moments(path, entries)
    return load_second_moments(path)


def output_error_by_hand(
    weights: np.ndarray, type_name: str, importance: np.ndarray, entry: MomentsEntry
) -> float:
    """tr(E S E^T) over tr(W S W^T), each expert compensated by itself."""
    error = squares = 0.0
    pooled, pooled_rows = entry.pooled()
    below = np.tril_indices(entry.columns)
    for expert, part in enumerate(weights):
        data = np.asarray(_core.quantize(part, type_name, importance[expert])).copy()
        objective = _core.Objective(
            entry.columns, entry.sums(expert), float(entry.rows[expert]), pooled, pooled_rows
        )
        _core.compensate(part, type_name, objective, data)
        back = gguf.quants.dequantize(
            data.reshape(len(part), -1), gguf.GGMLQuantizationType[type_name]
        )
        square = np.zeros((entry.columns, entry.columns))
        square[below] = entry.sums(expert)
        square = square + np.tril(square, -1).T
        off, before = (each.astype(np.float64) for each in (back - part, part))
        error += ((off @ square) * off).sum()
        squares += ((before @ square) * before).sum()
    return error / squares


def test_errors_of_compensated_tensors_are_those_of_outputs(
    source: Source,
    matrix: ImportanceMatrix,
    second_moments: SecondMoments,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By their second moments, and by importance where there are none."""
    made: list[tuple[str, int]] = []
    original = Objectives._objective

    def count(self: Objectives, entry: MomentsEntry, expert: int) -> _core.Objective:
        made.append((entry.name, expert))
        return original(self, entry, expert)

    monkeypatch.setattr(Objectives, "_objective", count)
    given = ("compensated", second_moments)
    every = candidates_of(source, matrix, *given)
    candidates = {name: every[name] for name in (EXPERTS, DENSE, EMBEDDING)}
    assert [each.moments is not None for each in candidates.values()] == [True, True, False]
    tables = measure_tables(source, matrix, candidates, RunSettings(), *given, sample=0)
    plain = measure_tables(source, matrix, candidates, RunSettings(), sample=0)
    assert tables[EMBEDDING] == plain[EMBEDDING]
    for name in (EXPERTS, DENSE):
        weights, entry = weights_of(source, name), second_moments.entry(name)
        reference = candidates[name].importance
        assert entry is not None and reference is not None
        importance = np.asarray(reference.values(matrix)).reshape(len(weights), -1)
        for type_name in ("Q4_K", "IQ4_XS", "Q2_K"):
            expected = output_error_by_hand(weights, type_name, importance, entry)
            assert tables[name][type_name] == pytest.approx(expected, rel=1e-4), (name, type_name)
    experts = tensor_named(source, EXPERTS).experts
    assert len(made) == len(set(made)) == experts + 1, "each is made once for all types"


def test_in_a_group_all_errors_are_those_of_outputs(tmp_path: Path) -> None:
    """Weights lie along what the inputs have in common, so outputs are far larger than columns say;
    keys have no second moments, but queries of the same inputs have."""
    query, key = "blk.0.attn_q.weight", "blk.0.attn_k.weight"
    tensors = llama_tensors()
    random = np.random.default_rng(6)
    common = random.choice((-1, 1), 256)
    tensors[query] += np.float16(0.03) * common.astype(np.float16)
    tensors[key] -= np.float16(0.03) * common.astype(np.float16)
    write_llama(tmp_path / "a.gguf", tensors)
    source = open_model(tmp_path / "a.gguf")
    inputs = random.standard_normal((900, 256)) + common
    squares = (inputs**2).sum(axis=0, keepdims=True).astype(np.float32)
    write_gguf(
        tmp_path / "i.gguf", dict.fromkeys((query, key), (squares, np.full(1, 900, np.float32)))
    )
    moments.write_moments(tmp_path / "m.gguf", {query: moments.entry_of([inputs])})
    matrix = load_imatrix(tmp_path / "i.gguf")
    given = ("compensated", load_second_moments(tmp_path / "m.gguf"))
    every = candidates_of(source, matrix, *given)
    candidates = {name: every[name] for name in (query, key)}
    groups = [Group("both", "query, key", 0, (query, key))]
    tables = measure_tables(source, matrix, candidates, RunSettings(), *given, groups, sample=0)
    weights = tensors[key].astype(np.float32)
    for type_name in ("Q8_0", "Q4_K", "Q2_K"):
        data = np.asarray(_core.quantize(weights, type_name, (squares / 900).astype(np.float32)))
        off = _core.dequantize(data, type_name).reshape(weights.shape) - weights
        expected = ((off @ inputs.T) ** 2).sum() / ((weights @ inputs.T) ** 2).sum()
        assert tables[key][type_name] == pytest.approx(expected, rel=0.3), type_name


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
