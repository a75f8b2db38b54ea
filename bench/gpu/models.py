"""Models to measure with, and importance matrices for them."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

import apex


def write_model(path: Path, gib: float) -> None:
    """A qwen3moe of so many GiB as F16; its experts are pieces of one pool of weights."""
    hidden, width, experts = 2048, 768, 32
    per_layer = 3 * experts * hidden * width + 2 * hidden * 2048 + 2 * hidden * 512
    layers = max(1, round(gib * 2**30 / 2 / per_layer))
    writer = gguf.GGUFWriter(path, "qwen3moe")
    for add, value in (
        (writer.add_block_count, layers),
        (writer.add_context_length, 4096),
        (writer.add_embedding_length, hidden),
        (writer.add_feed_forward_length, width),
        (writer.add_head_count, 16),
        (writer.add_head_count_kv, 4),
        (writer.add_key_length, 128),
        (writer.add_value_length, 128),
        (writer.add_expert_count, experts),
        (writer.add_expert_used_count, 4),
        (writer.add_expert_feed_forward_length, width),
    ):
        add(value)
    writer.add_layer_norm_rms_eps(1e-6)
    random = np.random.default_rng(0)
    pool = random.standard_normal(2 * experts * hidden * width, dtype=np.float32) / 32
    pool = pool.astype(np.float16)
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (8192, hidden), "output": (8192, hidden)}
    for layer in range(layers):
        shapes |= {
            f"blk.{layer}.attn_q": (2048, hidden),
            f"blk.{layer}.attn_k": (512, hidden),
            f"blk.{layer}.attn_v": (512, hidden),
            f"blk.{layer}.attn_output": (hidden, 2048),
            f"blk.{layer}.ffn_gate_exps": (experts, width, hidden),
            f"blk.{layer}.ffn_up_exps": (experts, width, hidden),
            f"blk.{layer}.ffn_down_exps": (experts, hidden, width),
        }
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        first = int(random.integers(pool.size - size))
        writer.add_tensor(f"{name}.weight", pool[first : first + size].reshape(shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_matrix(model: Path, path: Path) -> None:
    """An importance matrix for all of its tensors."""
    writer = gguf.GGUFWriter(path, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["bench"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    random = np.random.default_rng(1)
    for tensor in apex.open_model(model).tensors:
        sums = random.lognormal(size=(tensor.experts, tensor.columns)).astype(np.float32)
        writer.add_tensor(f"{tensor.name}.in_sum2", sums)
        writer.add_tensor(f"{tensor.name}.counts", np.ones((tensor.experts, 1), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
