"""Whole files in the page cache: apex.quantize against llama_model_quantize, same threads."""

from __future__ import annotations

import filecmp
from pathlib import Path
from typing import Any

import apex_reference
import gguf
import numpy as np
import pytest
from gpu.models import write_matrix

import apex

LAYERS, HIDDEN, WIDTH, EXPERTS = 40, 2048, 512, 8

CASES = {
    "Q8_0": {"file_type": "Q8_0"},
    "Q4_K_M": {"file_type": "Q4_K_M"},
    **{tier: {"tier": tier} for tier in ("quality", "i-quality", "mini", "nano")},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A qwen3moe of 1.4 B weights, 2.8 GB."""
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    writer = gguf.GGUFWriter(path, "qwen3moe")
    writer.add_block_count(LAYERS)
    writer.add_context_length(4096)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(16)
    writer.add_head_count_kv(4)
    writer.add_key_length(64)
    writer.add_value_length(64)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(2)
    writer.add_expert_feed_forward_length(WIDTH)
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (8192, HIDDEN), "output": (8192, HIDDEN)}
    for layer in range(LAYERS):
        for name, shape in {
            "attn_q": (1024, HIDDEN),
            "attn_k": (256, HIDDEN),
            "attn_v": (256, HIDDEN),
            "attn_output": (HIDDEN, 1024),
            "ffn_gate_exps": (EXPERTS, WIDTH, HIDDEN),
            "ffn_up_exps": (EXPERTS, WIDTH, HIDDEN),
            "ffn_down_exps": (EXPERTS, HIDDEN, WIDTH),
        }.items():
            shapes[f"blk.{layer}.{name}"] = shape
    for name, shape in shapes.items():
        weights = random.standard_normal(shape, dtype=np.float32) / 32
        writer.add_tensor(f"{name}.weight", weights.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def imatrix(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("imatrix") / "imatrix.gguf"
    write_matrix(model, path)
    return path


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the files of llama.cpp go; apex's are compared with them."""
    return tmp_path_factory.mktemp("reference")


@pytest.mark.parametrize("who", ["llama", "apex"])  # the reference first
@pytest.mark.parametrize("case", CASES)
def bench_file(
    benchmark: Any, model: Path, imatrix: Path, reference: Path, case: str, who: str
) -> None:
    options: dict[str, Any] = dict(CASES[case])
    if "tier" in options and apex.load_recipe(case).importance == "required":
        options["imatrix"] = imatrix
    plan = apex.plan(model, **options)
    benchmark.group = f"file {case}"
    benchmark.extra_info.update(
        weights=plan.weights, source_bytes=model.stat().st_size, bytes=plan.file_bytes, who=who
    )
    ours, theirs = reference / "apex.gguf", reference / f"{case}.gguf"
    if who == "llama":
        importance = {
            tensor.name: tensor.importance.values()
            for tensor in plan.tensors
            if tensor.importance is not None
        }
        rules = [tuple(line.split("=")) for line in plan.tensor_type_file().split()]
        benchmark.pedantic(
            apex_reference.quantize_with_llama,
            args=(str(model), str(theirs), plan.file_type),
            kwargs={
                "importance": importance,
                "tensor_types": rules if "tier" in options else [],
                "overrides": [] if plan.imatrix is None else imatrix_keys(plan),
            },
            rounds=1,
        )
        return

    results = []

    def run() -> None:
        results.append(apex.quantize(plan, ours, overwrite=True, backend="cpu"))

    run()
    assert filecmp.cmp(ours, theirs, shallow=False)
    benchmark.pedantic(run, rounds=3)
    benchmark.extra_info["seconds"] = results[-1].timings.to_dict()
    theirs.unlink()


def imatrix_keys(plan: apex.Plan) -> list[tuple[str, Any]]:
    """What llama-quantize adds to the metadata for an importance matrix."""
    assert plan.imatrix is not None
    return [
        ("quantize.imatrix.file", plan.imatrix.path),
        ("quantize.imatrix.dataset", plan.imatrix.datasets[0]),
        ("quantize.imatrix.entries_count", len(plan.imatrix.entries)),
        ("quantize.imatrix.chunks_count", plan.imatrix.chunk_count),
    ]
