"""How far outputs are off, against the inputs themselves instead of their second moments."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from support import imatrix, moments

import apex
from apex.verification import VerifyReport

UP, GATE, OUT = "blk.0.ffn_up_exps.weight", "blk.0.ffn_gate_exps.weight", "blk.0.ssm_out.weight"
EMBEDDING = "token_embd.weight"  # its rows are looked up: they have no inputs and no outputs
Inputs = dict[str, list[np.ndarray]]


@pytest.fixture(scope="module")
def matrix(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("outputs") / "imatrix.gguf"
    imatrix.write_for_model(path, demo_model)
    return path


@pytest.fixture(scope="module")
def inputs(demo_model: Path) -> Inputs:
    """Of each expert, columns that move together; one expert saw nothing."""
    random = np.random.default_rng(5)
    inputs = {}
    for tensor in apex.open_model(demo_model).tensors:
        if tensor.name in (UP, OUT):
            mixing = random.standard_normal((tensor.columns, tensor.columns)) / 8
            counts = random.integers(200, 900, tensor.experts)
            if tensor.experts > 2:
                counts[1] = 0
            inputs[tensor.name] = [
                random.standard_normal((count, tensor.columns)) @ mixing for count in counts
            ]
    return inputs


@pytest.fixture(scope="module")
def second_moments(inputs: Inputs, matrix: Path) -> Path:
    path = matrix.with_name("moments.gguf")
    entries = {name: moments.entry_of(each) for name, each in inputs.items()}
    columns = inputs[OUT][0].shape[1]
    entries[EMBEDDING] = moments.entry_of([np.random.default_rng(6).random((600, columns))])
    moments.write_moments(path, entries, {GATE: UP}, [EMBEDDING])
    return path


@pytest.fixture(scope="module")
def files(demo_model: Path, matrix: Path, second_moments: Path) -> dict[str, Path]:
    """The same types, rounded in two ways."""
    files = {}
    for rounding in ("reference", "compensated"):
        files[rounding] = matrix.with_name(f"{rounding}.gguf")
        given = second_moments if rounding == "compensated" else None
        options = {"file_type": "Q3_K_S", "imatrix": matrix, "rounding": rounding}
        apex.quantize(demo_model, files[rounding], **options, second_moments=given)
    return files


def weights(path: Path, name: str) -> np.ndarray:
    """(experts, rows, columns)"""
    (tensor,) = (tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == name)
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
    return values.reshape(-1, *values.shape[-2:])


def squares(matrices: np.ndarray, inputs: list[np.ndarray]) -> float:
    """Of all outputs of all experts."""
    return sum(
        float(((rows @ matrix.T) ** 2).sum()) for matrix, rows in zip(matrices, inputs, strict=True)
    )


def output_errors(report: VerifyReport) -> dict[str, float]:
    return {
        tensor.name: tensor.output_rmse
        for tensor in report.tensors
        if tensor.output_rmse is not None
    }


@pytest.mark.parametrize("parts", ["whole", "cut"])
def test_against_the_outputs_themselves(
    demo_model: Path,
    inputs: Inputs,
    second_moments: Path,
    files: dict[str, Path],
    parts: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if parts == "cut":
        monkeypatch.setattr("apex.verification.compare._PART_BYTES", 20_000)
        monkeypatch.setattr("apex.verification.outputs._PART_WEIGHTS", 1000)
        monkeypatch.setattr("apex.verification.outputs._BLOCK_COLUMNS", 48)
    report = apex.verify(files["reference"], demo_model, second_moments=second_moments)
    expected, sums = {}, np.zeros(2)
    for name in (UP, GATE, OUT):
        seen = inputs[UP if name == GATE else name]
        source = weights(demo_model, name)
        error = weights(files["reference"], name) - source
        part = squares(error, seen), squares(source, seen)
        expected[name] = pytest.approx(np.sqrt(part[0] / part[1]), rel=1e-4)
        sums += part
    assert output_errors(report) == expected
    assert report.output_rmse == pytest.approx(np.sqrt(sums[0] / sums[1]), rel=1e-4)
    by_role = [role.output_rmse for role in report.by_role()]
    assert len(by_role) - by_role.count(None) == 2  # experts, and what OUT is
    assert report.to_dict()["output_rmse"] == report.output_rmse
    plain = apex.verify(files["reference"], demo_model)
    assert plain.output_rmse is None
    assert output_errors(plain) == {}
    assert [tensor.rmse for tensor in plain.tensors] == pytest.approx(
        [tensor.rmse for tensor in report.tensors]
    )


def test_compensated_outputs_are_nearer(
    demo_model: Path, second_moments: Path, files: dict[str, Path]
) -> None:
    found = {
        rounding: apex.verify(path, demo_model, second_moments=second_moments)
        for rounding, path in files.items()
    }
    before, after = (output_errors(found[name]) for name in ("reference", "compensated"))
    assert before.keys() == after.keys() == {UP, GATE, OUT}
    assert all(after[name] < 0.9 * before[name] for name in before)
    before_total, after_total = (found[name].output_rmse for name in ("reference", "compensated"))
    assert before_total is not None
    assert after_total is not None
    assert after_total < 0.9 * before_total


def test_values_that_are_no_numbers_are_left_out(
    demo_model: Path, second_moments: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(demo_model.read_bytes())
    with broken.open("r+b") as file:
        file.seek(apex.open_model(broken).offsets[OUT])
        file.write(np.array([np.nan, np.inf], np.float16).tobytes())
    report = apex.verify(broken, demo_model, second_moments=second_moments)
    assert report.bad_values == 2
    assert set(output_errors(report).values()) == {0.0}


def test_second_moments_of_another_model(demo_model: Path, inputs: Inputs, tmp_path: Path) -> None:
    narrow = tmp_path / "narrow.gguf"
    entry = moments.entry_of([rows[:, :-1] for rows in inputs[OUT]])
    moments.write_moments(narrow, {OUT: entry})
    with pytest.raises(apex.ImatrixError, match=OUT) as caught:
        apex.verify(demo_model, demo_model, second_moments=narrow)
    assert "of this very model" in caught.value.hint
    foreign = tmp_path / "foreign.gguf"
    moments.write_moments(foreign, {"other.weight": entry})
    with pytest.raises(apex.ImatrixError, match="none of its 1 entries"):
        apex.verify(demo_model, demo_model, second_moments=foreign)
