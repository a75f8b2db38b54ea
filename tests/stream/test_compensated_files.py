"""Compensated files: every expert by its own objective, however slabs cut the rows."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from support import imatrix, moments

import apex
from apex import _core
from apex.errors import ImatrixError
from apex.files import load_imatrix, load_second_moments
from apex.planning import Plan
from apex.quantizing import RunSettings, round_rows

UP, OUT = "blk.0.ffn_up_exps.weight", "blk.0.ssm_out.weight"


@pytest.fixture(scope="module")
def matrix(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compensated") / "imatrix.gguf"
    imatrix.write_for_model(path, demo_model)
    return path


@pytest.fixture(scope="module")
def second_moments(demo_model: Path, matrix: Path) -> Path:
    """Of columns that move together; one expert saw nothing, and one little."""
    random = np.random.default_rng(8)
    entries = {}
    for tensor in apex.open_model(demo_model).tensors:
        if tensor.name in (UP, OUT):
            mixing = random.standard_normal((tensor.columns, tensor.columns)) / 8
            counts = random.integers(200, 900, tensor.experts)
            if tensor.experts > 2:
                counts[1:3] = 0, 5
            inputs = [random.standard_normal((count, tensor.columns)) @ mixing for count in counts]
            entries[tensor.name] = moments.entry_of(inputs)
    assert len(entries) == 2
    path = matrix.with_name("moments.gguf")
    moments.write_moments(path, entries)
    return path


@pytest.fixture
def plan(demo_model: Path, matrix: Path, second_moments: Path) -> Plan:
    return apex.plan(
        demo_model,
        file_type="Q3_K_S",
        imatrix=matrix,
        rounding="compensated",
        second_moments=second_moments,
    )


def by_hand(model: Path, plan: Plan, matrix: Path, path: Path, name: str) -> np.ndarray:
    """Whole experts, one after the other, on one thread."""
    planned = next(tensor for tensor in plan.tensors if tensor.name == name)
    tensor = planned.source
    rows = np.empty(tensor.bytes, np.uint8)
    apex.open_model(model).read(tensor, 0, rows.data)
    assert planned.importance is not None
    importance = planned.importance.values(load_imatrix(matrix))
    entry = load_second_moments(path).entry(name)
    assert entry is not None
    made = []
    for expert, part in enumerate(rows.reshape(tensor.experts, -1)):
        objective = _core.Objective(
            tensor.columns, entry.sums(expert), float(entry.rows[expert]), *entry.pooled()
        )
        shape = (tensor.rows // tensor.experts, tensor.columns)
        result = _core.quantize(
            part, planned.type, importance[expert], src_type=tensor.type, shape=shape, threads=1
        )
        before = result.copy()
        _core.compensate(
            part, planned.type, objective, result, src_type=tensor.type, shape=shape, threads=1
        )
        assert not np.array_equal(result, before)
        made.append(result.reshape(-1))
    return np.concatenate(made)


@pytest.mark.parametrize("slab", [0, 20_000, 1 << 20])
def test_every_tensor_by_hand(
    demo_model: Path,
    matrix: Path,
    second_moments: Path,
    plan: Plan,
    tmp_path: Path,
    slab: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if slab:
        monkeypatch.setattr("apex.quantizing.setup.slab_bytes", lambda *_: slab)
    out = tmp_path / "out.gguf"
    apex.quantize_all({out: plan}, RunSettings(threads=3))
    written = {tensor.name: tensor for tensor in gguf.GGUFReader(out).tensors}
    compensated = {tensor.name for tensor in plan.tensors if tensor.rounding == "compensated"}
    assert compensated == {UP, OUT}
    for name in compensated:
        found = np.array(written[name].data).reshape(-1).view(np.uint8)
        assert np.array_equal(found, by_hand(demo_model, plan, matrix, second_moments, name))
    assert apex.open_model(out).metadata["quantize.rounding"] == "compensated"


def test_without_importance_the_diagonal_takes_its_place() -> None:
    random = np.random.default_rng(9)
    weights = random.standard_normal((2, 5, 256)).astype(np.float32)
    objectives = []
    for scale in (1, 3):
        inputs = random.standard_normal((600, 256)) * np.linspace(0.1, scale, 256)
        sums, counts = moments.entry_of([inputs])
        objectives.append(_core.Objective(256, sums[0], float(counts[0]), sums[0] * 0, 0.0))
    importance = np.stack([objective.moments.diagonal() for objective in objectives])
    results = []
    for given in (importance, None):
        out = np.empty(weights.size // 256 * 84, np.uint8)
        rows = weights.view(np.uint8).reshape(-1)
        round_rows(
            rows, "F32", weights.shape, "Q2_K", given, "compensated", out, 1, objectives.__getitem__
        )
        results.append(out)
    assert np.array_equal(*results)


def test_bad_weights_are_named_by_expert_and_row(
    demo_model: Path, plan: Plan, matrix: Path, second_moments: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(demo_model.read_bytes())
    source = apex.open_model(model)
    tensor = next(tensor for tensor in source.tensors if tensor.name == UP)
    rows = tensor.rows // tensor.experts
    with model.open("r+b") as file:
        file.seek(source.offsets[UP] + (2 * rows + 3) * tensor.row_bytes)
        file.write(np.array([np.nan], np.float16).tobytes())
    with pytest.raises(apex.DataError, match=r"NaN \(expert 2, row [0-3]\)"):
        apex.quantize(
            model,
            tmp_path / "out.gguf",
            file_type="Q3_K_S",
            imatrix=matrix,
            rounding="compensated",
            second_moments=second_moments,
        )


def test_damaged_second_moments(
    demo_model: Path, matrix: Path, second_moments: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "moments.gguf"
    entry = load_second_moments(second_moments).entry(OUT)
    assert entry is not None
    sums = entry.sums(0).copy()
    sums[3] = np.nan
    moments.write_moments(damaged, {OUT: (sums[np.newaxis], entry.rows)})
    with pytest.raises(ImatrixError, match="cannot be second moments"):
        apex.quantize(
            demo_model,
            tmp_path / "out.gguf",
            file_type="Q3_K_S",
            imatrix=matrix,
            rounding="compensated",
            second_moments=damaged,
        )
    assert not (tmp_path / "out.gguf").exists()
