"""Whole files by way of GPUs: the bytes of the processor's, whatever happens on the way."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commands import COMMAND, environment
from support.llama import llama_tensors, write_llama

import apex
from apex.errors import DataError, UsageError

pytestmark = pytest.mark.gpu

TIERS = [recipe.name for recipe in apex.tiers()]


def same_file(model: Path, folder: Path, **options: Any) -> apex.QuantizeResult:
    """Write it with the processor and with all GPUs; the latter's result."""
    apex.quantize(model, folder / "processor.gguf", backend="cpu", **options)
    result = apex.quantize(model, folder / "gpu.gguf", backend="cuda", **options)
    assert (folder / "processor.gguf").read_bytes() == (folder / "gpu.gguf").read_bytes()
    assert result.notes == ()
    return result


def tier_options(tier: str, matrix: Path, width: int) -> dict[str, Any]:
    required = apex.load_recipe(tier).importance == "required"
    return {
        "tier": tier,
        "edge_layers": width,
        "near_layers": width,
        "imatrix": matrix if required else None,
    }


@pytest.mark.parametrize("tier", TIERS)
def test_tier_of_the_demo(
    device: int, demo_model: Path, demo_matrix: Path, tmp_path: Path, tier: str
) -> None:
    result = same_file(demo_model, tmp_path, **tier_options(tier, demo_matrix, 1))
    assert sum(use.bytes for use in result.devices) > 0.9 * result.plan.model.bytes


@pytest.mark.parametrize("tier", TIERS)
def test_tier_of_a_trained_model(
    device: int, shared_model: Path, shared_matrix: Path, tmp_path: Path, tier: str
) -> None:
    result = same_file(shared_model, tmp_path, **tier_options(tier, shared_matrix, 2))
    assert sum(use.bytes for use in result.devices) > 0.9 * result.plan.model.bytes


def test_several_targets_in_one_pass(
    device: int, demo_model: Path, demo_matrix: Path, tmp_path: Path
) -> None:
    source = apex.open_model(demo_model)
    wishes: list[dict[str, Any]] = [
        {"tier": "quality"},
        {"tier": "mini", "imatrix": demo_matrix},
        {"file_type": "Q4_K_M", "imatrix": demo_matrix},
        {"file_type": "COPY"},
    ]
    plans = [apex.plan(source, **wish) for wish in wishes]
    joint = apex.quantize_all(
        {tmp_path / f"{index}.gguf": plan for index, plan in enumerate(plans)},
        apex.RunSettings(backend="cuda"),
        source=source,
    )
    assert joint[0].devices[0].bytes > 0
    for plan, result in zip(plans, joint, strict=True):
        apex.quantize(plan, tmp_path / "alone.gguf", backend="cpu", overwrite=True)
        assert result.paths[0].read_bytes() == (tmp_path / "alone.gguf").read_bytes()


@pytest.mark.parametrize("file_type", ["Q4_0", "Q5_1", "Q8_0", "MXFP4_MOE", "F16", "BF16"])
def test_file_types(device: int, demo_model: Path, tmp_path: Path, file_type: str) -> None:
    same_file(demo_model, tmp_path, file_type=file_type)


def test_shards_and_sources_of_every_kind(device: int, demo_model: Path, tmp_path: Path) -> None:
    for source in ("BF16", "F32", "Q8_0"):
        model = tmp_path / f"{source}.gguf"
        if source == "F32":
            write_llama(model, llama_tensors())
        else:
            apex.quantize(demo_model, model, file_type=source, backend="cpu")
        folder = tmp_path / source
        folder.mkdir()
        same_file(model, folder, file_type="Q4_K_M", allow_requantize=True)
    result = apex.quantize(
        demo_model, tmp_path / "shards.gguf", file_type="Q4_K_M", split_max_size=10_000_000
    )
    assert len(result.paths) > 1
    apex.quantize(
        demo_model,
        tmp_path / "again.gguf",
        file_type="Q4_K_M",
        split_max_size=10_000_000,
        backend="cpu",
    )
    for path in result.paths:
        again = path.with_name(path.name.replace("shards", "again"))
        assert path.read_bytes() == again.read_bytes()


def test_little_memory_in_this_process_makes_small_slabs(
    device: int, demo_model: Path, tmp_path: Path
) -> None:
    result = same_file(demo_model, tmp_path, file_type="Q4_K_M", max_memory=200 << 20, threads=2)
    assert result.slab_memory < 40 << 20
    assert result.devices[0].memory < 40 << 20


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bad_weights_are_the_processors_error(device: int, tmp_path: Path, value: float) -> None:
    tensors = llama_tensors()
    tensors["blk.1.ffn_down.weight"].reshape(-1)[-7] = value
    write_llama(tmp_path / "model.gguf", tensors)
    messages = []
    for backend in ("cpu", "cuda"):
        with pytest.raises(DataError, match=r"blk\.1\.ffn_down\.weight") as caught:
            apex.quantize(
                tmp_path / "model.gguf", tmp_path / "out.gguf", file_type="Q8_0", backend=backend
            )
        messages.append(caught.value.message)
    assert messages[0] == messages[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf"]


def run(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "quantize", *map(str, arguments)],
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def outcome(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_several_gpus_share_the_work(emulated: int, demo_model: Path, tmp_path: Path) -> None:
    one, three = tmp_path / "one.gguf", tmp_path / "three.gguf"
    apex.quantize(demo_model, one, file_type="Q4_K_M", backend="cpu")
    options = ("--type", "Q4_K_M", "--json", "--max-memory", "220M", "--threads", "2")
    told = outcome(run(demo_model, three, *options, "--device", "0,2", APEX_EMULATED_DEVICES="3"))
    assert [use["index"] for use in told["devices"]] == [0, 2]
    assert all(use["bytes"] > 0 for use in told["devices"])
    assert one.read_bytes() == three.read_bytes()
    refused = run(demo_model, tmp_path / "x.gguf", "--type", "Q4_K_M", "--device", "1")
    assert refused.returncode == 9
    assert "no GPU 1" in refused.stderr


@pytest.mark.parametrize("launch", [1, 2, 5, 17])
@pytest.mark.parametrize("count", [1, 2])
def test_a_lost_gpu(
    emulated: int, demo_model: Path, tmp_path: Path, launch: int, count: int
) -> None:
    """The processor goes on, or the run stops if the GPU was asked for; never a wrong byte."""
    good, out = tmp_path / "good.gguf", tmp_path / "out.gguf"
    apex.quantize(demo_model, good, file_type="Q4_K_M", backend="cpu")
    options = (
        demo_model,
        out,
        "--type",
        "Q4_K_M",
        "--json",
        "--max-memory",
        "220M",
        "--threads",
        "2",
    )
    trouble = {"APEX_EMULATED_FAILURE": str(launch), "APEX_EMULATED_DEVICES": str(count)}
    result = run(*options, **trouble)
    told = outcome(result)
    assert out.read_bytes() == good.read_bytes()
    if count == 1:
        assert len(told["notes"]) == 1
        assert "emulated device is lost" in told["notes"][0]
        assert told["notes"][0] in result.stderr
    out.unlink()
    if count == 1:
        stopped = run(*options, "--backend", "cuda", **trouble)
        assert stopped.returncode == 9
        assert "failed" in stopped.stderr
        assert sorted(path.name for path in tmp_path.iterdir()) == ["good.gguf"]


def test_a_gpu_with_little_memory(emulated: int, demo_model: Path, tmp_path: Path) -> None:
    good, out = tmp_path / "good.gguf", tmp_path / "out.gguf"
    apex.quantize(demo_model, good, file_type="Q4_K_M", backend="cpu")
    options = ("--type", "Q4_K_M", "--json", "--backend", "cuda", "--overwrite")
    reserve = 256 << 20
    told = outcome(run(demo_model, out, *options, APEX_EMULATED_MEMORY=str(reserve + (2 << 20))))
    assert 0 < told["devices"][0]["memory"] <= 2 << 20
    assert out.read_bytes() == good.read_bytes()
    refused = run(demo_model, out, *options, APEX_EMULATED_MEMORY=str(reserve))
    assert refused.returncode == 9
    assert "MiB of its memory are free" in refused.stderr
    told = outcome(
        run(demo_model, out, *options[:3], "--overwrite", APEX_EMULATED_MEMORY=str(reserve))
    )
    assert told["devices"] == []
    assert "cannot be used" in told["notes"][0]
    assert out.read_bytes() == good.read_bytes()


def test_memory_for_the_processor_alone(
    device: int, demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apex.quantizing.setup.DEVICE_SLOTS", 100_000_000)  # as many slabs
    result = apex.quantize(demo_model, tmp_path / "out.gguf", file_type="Q8_0")
    assert result.devices == ()
    assert "is too little: the model needs" in result.notes[0]
    with pytest.raises(UsageError, match="too little"):
        apex.quantize(demo_model, tmp_path / "no.gguf", file_type="Q8_0", backend="cuda")


def test_no_memory_for_copies(emulated: int, demo_model: Path, tmp_path: Path) -> None:
    options = (demo_model, tmp_path / "out.gguf", "--type", "Q8_0", "--json")
    told = outcome(run(*options, APEX_EMULATED_HOST_MEMORY="100000"))
    assert told["devices"] == []
    assert "cannot be had: out of memory" in told["notes"][0]
    refused = run(*options, "--overwrite", "--backend", "cuda", APEX_EMULATED_HOST_MEMORY="100000")
    assert refused.returncode == 9
    assert "cannot be had: out of memory" in refused.stderr


def test_no_gpu_is_no_error_unless_one_is_asked_for(
    emulated: int, demo_model: Path, tmp_path: Path
) -> None:
    options = (demo_model, tmp_path / "out.gguf", "--type", "Q8_0", "--json")
    told = outcome(run(*options, APEX_EMULATED_DEVICES="0"))
    assert told["devices"] == told["notes"] == []
    refused = run(*options, "--backend", "cuda", "--overwrite", APEX_EMULATED_DEVICES="0")
    assert refused.returncode == 9
    assert "No GPU was found" in refused.stderr
