"""What ``apex.verify`` computes, against numpy and the gguf package's own dequantization."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from support.imatrix import write_gguf
from support.llama import llama_tensors, write_llama

import apex
from apex.policy import Role

NAME = "blk.1.ffn_up.weight"


@pytest.fixture(scope="module")
def quantized(dense_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verify") / "quantized.gguf"
    apex.quantize(dense_model, path, file_type="Q4_K_M")
    return path


def weights(path: Path, name: str) -> np.ndarray:
    (tensor,) = (tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == name)
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)


def test_errors_are_relative_to_the_source(
    dense_model: Path, quantized: Path, tmp_path: Path
) -> None:
    source, result = weights(dense_model, NAME), weights(quantized, NAME)
    importance = np.random.default_rng(1).uniform(0, 9, source.shape[1]).astype(np.float32)
    matrix = tmp_path / "imatrix.gguf"
    write_gguf(matrix, {NAME: (importance[None], np.ones(1, np.float32))})
    report = apex.verify(quantized, dense_model, imatrix=matrix)
    (found,) = (tensor for tensor in report.tensors if tensor.name == NAME)
    squares = (result - source) ** 2
    assert found.rmse == pytest.approx(np.sqrt(squares.mean() / (source**2).mean()), rel=1e-6)
    weighted = (squares * importance).sum() / (source**2 * importance).sum()
    assert found.weighted_rmse == pytest.approx(np.sqrt(weighted), rel=1e-6)
    runs = squares.reshape(-1, 256).mean(axis=1)
    assert found.worst_block == pytest.approx(np.sqrt(runs.max() / (source**2).mean()), rel=1e-6)
    row, run = divmod(int(runs.argmax()), source.shape[1] // 256)
    assert (found.worst_row, found.worst_column) == (row, 256 * run)
    assert found.role is Role.DENSE
    weighted_ones = {tensor.name for tensor in report.tensors if tensor.weighted_rmse is not None}
    assert weighted_ones == {NAME, "blk.1.ffn_gate.weight"}  # gate and up see the same input


def test_roles_add_up(dense_model: Path, quantized: Path) -> None:
    report = apex.verify(quantized, dense_model)
    assert len(report.tensors) == len(apex.open_model(dense_model).tensors)
    assert sum(role.tensors for role in report.by_role()) == len(report.tensors)
    (dense,) = (role for role in report.by_role() if role.role is Role.DENSE)
    assert dense.worst_block == max(t.worst_block for t in report.tensors if t.role is Role.DENSE)
    norms = [tensor for tensor in report.tensors if "norm" in tensor.name]
    assert norms
    assert all(tensor.rmse == 0 for tensor in norms)


def test_a_file_is_as_good_as_itself(dense_model: Path) -> None:
    report = apex.verify(dense_model, dense_model)
    assert [tensor.rmse for tensor in report.tensors] == [0.0] * len(report.tensors)
    assert report.bad_values == 0


def test_values_that_are_no_numbers_are_counted(dense_model: Path, tmp_path: Path) -> None:
    tensors = llama_tensors()
    tensors[NAME][0, 0], tensors[NAME][1, 1] = np.nan, np.inf
    write_llama(tmp_path / "bad.gguf", tensors)
    report = apex.verify(tmp_path / "bad.gguf", dense_model)
    (found,) = (tensor for tensor in report.tensors if tensor.bad_values)
    assert (found.name, found.bad_values, report.bad_values) == (NAME, 2, 2)
    assert np.isfinite(found.rmse)


def test_files_that_do_not_belong_together(
    dense_model: Path, quantized: Path, tmp_path: Path
) -> None:
    tensors = llama_tensors()
    tensors[NAME] = tensors[NAME][:-1]
    del tensors["blk.0.attn_q.weight"]
    write_llama(tmp_path / "other.gguf", tensors)
    with pytest.raises(apex.ModelFileError) as caught:
        apex.verify(quantized, tmp_path / "other.gguf")
    assert "blk.0.attn_q.weight is not in the source" in caught.value.message
    assert f"{NAME} has shape" in caught.value.message
    with pytest.raises(apex.ModelFileError, match=r"blk\.0\.attn_q\.weight is missing"):
        apex.verify(tmp_path / "other.gguf", dense_model)


@pytest.mark.parametrize("columns", [255, 512])
def test_an_imatrix_of_another_model(
    dense_model: Path, quantized: Path, tmp_path: Path, columns: int
) -> None:
    matrix = tmp_path / "imatrix.gguf"
    write_gguf(matrix, {NAME: (np.ones((1, columns), np.float32), np.ones(1, np.float32))})
    with pytest.raises(apex.ImatrixError, match=NAME):
        apex.verify(quantized, dense_model, imatrix=matrix)
