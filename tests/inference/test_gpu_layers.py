"""Models with layers on GPUs; without a GPU, what is said about that."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from support.language import write_text

import apex
from apex import _core
from apex.calibration import CollectOptions, read_texts
from apex.errors import RunError
from apex.evaluation import EvalOptions, Evaluator
from apex.files import load_imatrix, load_second_moments
from apex.inference import RunOptions, check_memory, load_model, make_context

GIB = 1 << 30
NEED = {"model": 0, "cache": 0, "compute": 0, "logits": 0, "device_model": 0, "device": 0}

without_gpu = pytest.mark.skipif(bool(_core.gpu_devices()), reason="there is a GPU")


def test_without_layers_on_gpus_nothing_is_there(demo_model: Path, tmp_path: Path) -> None:
    """Nor are weights that the CPU keeps in a form of its own."""
    repacked = tmp_path / "q4_0.gguf"
    apex.quantize(demo_model, repacked, file_type="Q4_0")
    for path in (demo_model, repacked):
        need = _core.memory_need(str(path))
        assert set(need) == set(NEED)
        assert need["device"] == need["device_model"] == 0
        assert need["model"] > 0.9 * apex.open_model(path).bytes * 8 / 9
    with_head = _core.memory_need(str(demo_model), load_mtp=True)
    assert with_head["model"] > _core.memory_need(str(demo_model))["model"]


@without_gpu
@pytest.mark.parametrize("layers", [1, -1])
def test_no_gpu(
    demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layers: int
) -> None:
    run = RunOptions(gpu_layers=layers)
    texts = tmp_path / "text.txt"
    write_text(texts, 1500)
    for backends, message, hint in (
        ([], "This build of apex cannot run models on a GPU.", "APEX_GGML_CUDA=ON"),
        (["CUDA"], "No GPU was found.", "leave out --gpu-layers"),
    ):
        monkeypatch.setattr(_core, "gpu_backends", lambda backends=backends: backends)
        for attempt in (
            lambda: load_model(demo_model, gpu_layers=layers),
            lambda: Evaluator([demo_model], EvalOptions(run=run, text=texts)).run(),
            lambda: apex.calibrate(
                demo_model, tmp_path / "a.gguf", options=CollectOptions(run=run)
            ),
        ):
            with pytest.raises(RunError) as error:
                attempt()
            assert error.value.message == message
            assert hint in error.value.hint
            assert error.value.exit_code == 8
    with pytest.raises(_core.ModelError, match="no GPU was found"):  # never the CPU instead
        _core.Model(str(demo_model), gpu_layers=layers)


def test_too_little_memory_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = [("CUDA0", "a GPU", GIB, 4 * GIB)]
    monkeypatch.setattr(_core, "gpu_devices", lambda: devices)
    with pytest.raises(RunError, match=r"needs 1\.5 GiB on GPUs, and 1\.0 GiB are free") as error:
        check_memory(Path("m.gguf"), {**NEED, "device": 3 * GIB // 2})
    assert "fewer --gpu-layers" in error.value.hint
    devices.append(("CUDA1", "another", GIB, 4 * GIB))
    check_memory(Path("m.gguf"), {**NEED, "device": 3 * GIB // 2})
    check_memory(Path("m.gguf"), {**NEED, "device_model": 99 * GIB})  # loaded, so it is there


def test_results_carry_it() -> None:
    assert RunOptions().to_dict()["gpu_layers"] == 0
    assert RunOptions(gpu_layers=-1).to_dict()["gpu_layers"] == -1


@pytest.mark.gpu
@pytest.mark.skipif(not _core.gpu_devices(), reason="there is no GPU")
@pytest.mark.parametrize("layers", [3, -1])
def test_a_gpu_measures_what_the_cpu_does(demo_model: Path, tmp_path: Path, layers: int) -> None:
    text = tmp_path / "text.txt"
    write_text(text, 1500)
    perplexities, sums = [], []
    for gpu_layers in (0, layers):
        run = RunOptions(context_length=64, batch_size=256, gpu_layers=gpu_layers)
        evaluator = Evaluator([demo_model], EvalOptions(run=run, text=text, chunks=4, mtp=True))
        evaluator.run()
        result = evaluator.models[0]
        assert result.perplexity is not None and result.mtp_perplexity is not None
        perplexities.append((result.perplexity.ppl.value, result.mtp_perplexity.ppl.value))
        assert bool(evaluator.to_dict()["machine"]["gpus"]) == bool(gpu_layers)
        path = tmp_path / f"{gpu_layers}.gguf"
        options = CollectOptions(run=run, chunks=4)
        moments = tmp_path / f"{gpu_layers}.moments"
        apex.calibrate(
            demo_model, path, read_texts([text]), options=options, second_moments=moments
        )
        rows = [load_second_moments(moments).entry(name) for name in load_imatrix(path).entries]
        assert all(entry is not None and entry.pooled()[1] > 0 for entry in rows)
        sums.append({name: entry.sums for name, entry in load_imatrix(path).entries.items()})
    assert perplexities[1] == pytest.approx(perplexities[0], rel=0.02)
    assert set(sums[1]) == set(sums[0])
    for name, expected in sums[0].items():
        assert math.isclose(sums[1][name].sum(), expected.sum(), rel_tol=0.1), name


@pytest.mark.gpu
@pytest.mark.skipif(not _core.gpu_devices(), reason="there is no GPU")
def test_what_lies_on_a_gpu(demo_model: Path) -> None:
    weights = apex.open_model(demo_model).bytes
    some, every = (
        _core.memory_need(str(demo_model), gpu_layers=layers, load_mtp=True) for layers in (3, -1)
    )
    assert 0 < some["device_model"] < every["device_model"] <= 1.1 * weights
    assert every["device"] > 0
    huge = RunOptions(context_length=2**27, batch_size=2**27, gpu_layers=-1)
    with pytest.raises(RunError, match="GiB"):
        make_context(*load_model(demo_model, gpu_layers=-1), huge, sequences=1)
