"""Which model a sensitivity is of: files of other types are the same, other weights are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.llama import llama_tensors, write_llama

import apex
from apex.errors import DataError, SensitivityError
from apex.policy import Layout
from apex.sensitivity import Sensitivity, TextIdentity, check_model, groups_of, identity_of
from apex.sources import Source, open_model


def sensitivity_of(source: Source) -> Sensitivity:
    names = [tensor.name for tensor in source.tensors if len(tensor.shape) > 1]
    groups = groups_of(names, Layout.from_metadata(source.metadata))
    text = TextIdentity((), "", 512, 0, 0)
    errors: dict[str, dict[str, float]] = {name: {} for name in names}
    return Sensitivity(identity_of(source), text, "F16", "", 0.0, groups, errors)


def written(path: Path, tensors: dict[str, np.ndarray], layers: int = 2) -> Source:
    write_llama(path, tensors, layers=layers)
    return open_model(path)


def test_the_identity_of_a_model(dense_model: Path) -> None:
    identity = identity_of(open_model(dense_model))
    tensors = llama_tensors()
    assert (identity.name, identity.architecture) == ("dense.gguf", "llama")
    assert identity.weights == sum(weights.size for weights in tensors.values())
    assert len(identity.samples) == 16
    for name, value in identity.samples.items():
        assert value == pytest.approx(np.sum(tensors[name][0].astype(np.float64) ** 2))


@pytest.mark.parametrize("file_type", ["F16", "BF16", "Q8_0"])
def test_other_types_are_the_same_model(dense_model: Path, tmp_path: Path, file_type: str) -> None:
    check_other_types(dense_model, tmp_path, file_type)


@pytest.mark.parametrize("file_type", ["BF16", "Q8_0"])
def test_other_types_of_a_trained_model(shared_model: Path, tmp_path: Path, file_type: str) -> None:
    check_other_types(shared_model, tmp_path, file_type)


def check_other_types(model: Path, folder: Path, file_type: str) -> None:
    """In both directions, and far within the tolerance of 2 %."""
    path = folder / f"{file_type}.gguf"
    apex.quantize(model, path, file_type=file_type)
    ours, theirs = open_model(model), open_model(path)
    check_model(sensitivity_of(ours), theirs)
    check_model(sensitivity_of(theirs), ours)
    a, b = identity_of(ours), identity_of(theirs)
    assert a.tensors == b.tensors
    assert a.samples.keys() == b.samples.keys()
    for name, value in a.samples.items():
        assert b.samples[name] == pytest.approx(value, rel=0.004)


def test_the_order_of_tensors_is_nothing(dense_model: Path, tmp_path: Path) -> None:
    backwards = dict(reversed(llama_tensors().items()))
    check_model(sensitivity_of(open_model(dense_model)), written(tmp_path / "b.gguf", backwards))


def test_other_weights(dense_model: Path, tmp_path: Path) -> None:
    sensitivity = sensitivity_of(open_model(dense_model))
    tuned = llama_tensors()
    tuned["blk.1.ffn_up.weight"] = (tuned["blk.1.ffn_up.weight"] * 1.02).astype(np.float16)
    source = written(tmp_path / "tuned.gguf", tuned)
    with pytest.raises(
        SensitivityError, match=r"same shape \(dense\.gguf\).*blk\.1\.ffn_up\.weight differ"
    ) as caught:
        check_model(sensitivity, source)
    assert "apex measure" in caught.value.hint
    check_model(sensitivity, source, weights=False)


def test_weights_of_zero(dense_model: Path, tmp_path: Path) -> None:
    zeros = llama_tensors()
    zeros["output.weight"][0] = 0
    source = written(tmp_path / "zeros.gguf", zeros)
    check_model(sensitivity_of(source), source)
    with pytest.raises(SensitivityError, match=r"the weights of output\.weight differ"):
        check_model(sensitivity_of(open_model(dense_model)), source)


def test_another_architecture(dense_model: Path) -> None:
    source = open_model(dense_model)
    sensitivity = sensitivity_of(source)
    other = replace(
        sensitivity, model=replace(sensitivity.model, name="q.gguf", architecture="qwen3moe")
    )
    with pytest.raises(SensitivityError, match=r"architecture qwen3moe, q\.gguf, .*llama\.\n"):
        check_model(other, source)


def test_other_tensors(dense_model: Path, tmp_path: Path) -> None:
    small = open_model(dense_model)
    large = written(tmp_path / "large.gguf", llama_tensors(3), layers=3)
    with pytest.raises(SensitivityError, match=r"dense\.gguf has no tensor blk\.2\.attn_k\.weight"):
        check_model(sensitivity_of(large), small)
    with pytest.raises(
        SensitivityError, match=r"it has no tensor blk\.2\.attn_k\.weight, and large\.gguf has one"
    ):
        check_model(sensitivity_of(small), large, weights=False)


def test_other_shapes(dense_model: Path, tmp_path: Path) -> None:
    tensors = llama_tensors()
    tensors["output.weight"] = tensors["output.weight"][:-1]
    other = written(tmp_path / "other.gguf", tensors)
    with pytest.raises(SensitivityError, match=r"other\.gguf has tensors of other names or shapes"):
        check_model(sensitivity_of(open_model(dense_model)), other)


def test_a_header_alone_is_checked_without_weights(dense_model: Path, tmp_path: Path) -> None:
    source = open_model(dense_model)
    path = tmp_path / "header.gguf"
    path.write_bytes(dense_model.read_bytes()[: -(1 << 20)])
    check_model(sensitivity_of(source), open_model(path), weights=False)
    with pytest.raises(apex.ModelFileError):
        check_model(sensitivity_of(source), open_model(path))


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    tensors = llama_tensors()
    tensors["output.weight"][0, 3] = np.nan
    with pytest.raises(DataError, match=r"first row of output\.weight"):
        identity_of(written(tmp_path / "nan.gguf", tensors))
