"""Unshrunk files: the reference's bytes with the scales of each row multiplied, whatever carries
them out."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from support import imatrix

import apex
from apex import _core
from apex.files import load_imatrix
from apex.quantizing import RunSettings
from apex.quantizing.jobs import split, work_of
from apex.quantizing.workers.gpu import is_for_device

OPTIONS = {"file_type": "Q2_K", "pure": True}


@pytest.fixture(scope="module")
def matrix(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all that the demo multiplies with."""
    path = tmp_path_factory.mktemp("rounding") / "imatrix.gguf"
    imatrix.write_for_model(path, demo_model, ("token_embd.weight", "output.weight"))
    return path


def data_of(path: Path) -> dict[str, np.ndarray]:
    return {
        tensor.name: np.array(tensor.data).reshape(-1).view(np.uint8)
        for tensor in gguf.GGUFReader(path).tensors
    }


def by_hand(model: Path, plan: apex.Plan, matrix: Path, name: str) -> np.ndarray:
    """The bytes of one tensor, whole and on one thread."""
    planned = next(tensor for tensor in plan.tensors if tensor.name == name)
    tensor = planned.source
    shape = (tensor.experts, tensor.rows // tensor.experts, tensor.columns)
    rows = np.empty(tensor.bytes, np.uint8)
    apex.open_model(model).read(tensor, 0, rows.data)
    assert planned.importance is not None
    importance = planned.importance.values(load_imatrix(matrix))
    made = _core.quantize(
        rows, planned.type, importance, src_type=tensor.type, shape=shape, threads=1
    )
    if planned.rounding == "unshrunk":
        _core.unshrink(
            rows, planned.type, importance, made, src_type=tensor.type, shape=shape, threads=1
        )
    return made.reshape(-1)


@pytest.mark.parametrize("settings", [RunSettings(threads=1), RunSettings(threads=7)])
def test_every_tensor_by_hand(
    demo_model: Path,
    matrix: Path,
    tmp_path: Path,
    settings: RunSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if settings.threads == 7:  # slabs that cut experts
        monkeypatch.setattr("apex.quantizing.setup.slab_bytes", lambda *_: 20_000)
    plan = apex.plan(demo_model, imatrix=matrix, rounding="unshrunk", **OPTIONS)
    plain = apex.plan(demo_model, imatrix=matrix, **OPTIONS)
    outputs = {tmp_path / "unshrunk.gguf": plan, tmp_path / "plain.gguf": plain}
    apex.quantize_all(outputs, settings)
    made, without = (data_of(path) for path in outputs)
    changed = {tensor.name for tensor in plan.tensors if tensor.rounding == "unshrunk"}
    assert len(changed) > 5
    for name in changed:
        assert np.array_equal(made[name], by_hand(demo_model, plan, matrix, name)), name
        assert np.array_equal(without[name], by_hand(demo_model, plain, matrix, name)), name
        assert not np.array_equal(made[name], without[name]), name
    for name in set(made) - changed:
        assert np.array_equal(made[name], without[name]), name


def test_the_file_names_its_rounding(demo_model: Path, matrix: Path, tmp_path: Path) -> None:
    for rounding in ("unshrunk", "reference"):
        out = tmp_path / f"{rounding}.gguf"
        apex.quantize(demo_model, out, imatrix=matrix, rounding=rounding, **OPTIONS)
        found = apex.open_model(out).metadata.get("quantize.rounding")
        assert found == (None if rounding == "reference" else "unshrunk")


def test_it_keeps_the_size_of_outputs(demo_model: Path, matrix: Path, tmp_path: Path) -> None:
    """So that the weighted error grows a little: the best fit is smaller than what it fits."""
    errors = {}
    for rounding in ("unshrunk", "reference"):
        out = tmp_path / f"{rounding}.gguf"
        apex.quantize(demo_model, out, imatrix=matrix, rounding=rounding, **OPTIONS)
        report = apex.verify(out, demo_model, imatrix=matrix)
        errors[rounding] = {tensor.name: tensor.weighted_rmse for tensor in report.tensors}
    name = "blk.0.ffn_up_exps.weight"
    unshrunk, reference = errors["unshrunk"][name], errors["reference"][name]
    assert unshrunk is not None
    assert reference is not None
    assert reference < unshrunk < 1.1 * reference


def test_gpus_leave_what_is_unshrunk_to_the_processor(
    demo_model: Path, matrix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They round as llama.cpp does. A note says how many tensors that are."""
    monkeypatch.setattr(_core, "can_quantize_on_device", lambda *_: True)
    found = {}
    for rounding in ("unshrunk", "reference"):
        plan = apex.plan(demo_model, imatrix=matrix, rounding=rounding, **OPTIONS)
        jobs = split(work_of([plan]), 1 << 20)
        for_device = {job.tensor.name for job in jobs if is_for_device(job)}
        found[rounding] = {tensor.name for tensor in plan.tensors if tensor.name in for_device}
        changed = {tensor.name for tensor in plan.tensors if tensor.rounding != "reference"}
        assert not changed & for_device
    assert found["reference"] > found["unshrunk"]
    monkeypatch.setattr("apex.quantizing.setup.choose_gpus", lambda *_: ["a GPU"])
    monkeypatch.setattr("apex.quantizing.setup._on_gpus", lambda *_, **__: None)
    out = tmp_path / "out.gguf"
    result = apex.quantize(demo_model, out, imatrix=matrix, rounding="unshrunk", **OPTIONS)
    count = len(found["reference"] - found["unshrunk"])
    assert result.notes == (
        f"The processor quantizes {count} tensors that are not rounded as llama.cpp does: GPUs "
        "cannot do that.",
    )
    plain = apex.quantize(demo_model, tmp_path / "plain.gguf", imatrix=matrix, **OPTIONS)
    assert plain.notes == ()
