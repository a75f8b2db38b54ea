"""A dense llama with random weights, for tests that need any model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np

import apex
from apex import _core

WIDTH = 256


def llama_tensors(layers: int = 2, width: int = WIDTH, seed: int = 0) -> dict[str, np.ndarray]:
    """Name to weights; matrices are F16 (rows, columns), norms F32."""
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (random.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float16)

    tensors = {
        "token_embd.weight": matrix(512, width),
        "output_norm.weight": np.ones(width, np.float32),
        "output.weight": matrix(512, width),
    }
    for layer in range(layers):
        block = {
            "attn_norm": np.ones(width, np.float32),
            "attn_q": matrix(width, width),
            "attn_k": matrix(width, width),
            "attn_v": matrix(width, width),
            "attn_output": matrix(width, width),
            "ffn_norm": np.ones(width, np.float32),
            "ffn_gate": matrix(2 * width, width),
            "ffn_up": matrix(2 * width, width),
            "ffn_down": matrix(width, 2 * width),
        }
        tensors |= {f"blk.{layer}.{name}.weight": data for name, data in block.items()}
    return tensors


def write_llama(
    path: Path,
    tensors: dict[str, np.ndarray] | None = None,
    *,
    layers: int = 2,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Write a model that llama.cpp accepts for quantizing; ``metadata`` adds uint32 keys."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(64)
    writer.add_file_type(1)
    for key, value in (metadata or {}).items():
        writer.add_uint32(key, value)
    for name, data in (llama_tensors(layers) if tensors is None else tensors).items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def grow(model: Path, target: Path, rows: int) -> Path:
    """The same model with an output matrix of so many rows of zeros, in a sparse file."""
    source = apex.open_model(model)
    header = _core.Header.read_metadata(str(model))
    for tensor in source.tensors:
        shape = (256, rows) if tensor.name == "output.weight" else tensor.shape
        header.add_tensor(tensor.name, list(shape), tensor.type)
    data = header.to_bytes()
    target.write_bytes(data)
    size = sum(-(-t.bytes // 32) * 32 for t in source.tensors if t.name != "output.weight")
    os.truncate(target, len(data) + size + 512 * rows)
    return target
