"""The header of Qwen3.5-35B-A3B: true shapes, no weights, in a sparse file of full size."""

from __future__ import annotations

import os
import struct
from math import prod
from pathlib import Path

HIDDEN = 2048
LAYERS = 40
EXPERTS = 256
EXPERT_WIDTH = 512
VOCABULARY = 248320

_TYPE_IDS = {"F32": 0, "F16": 1}
_BYTES = {"F32": 4, "F16": 2}

Shape = tuple[int, ...]


def tensors() -> list[tuple[str, Shape, str]]:
    """(name, shape, type) of all 733 tensors."""
    result: list[tuple[str, Shape, str]] = [
        ("token_embd.weight", (HIDDEN, VOCABULARY), "F16"),
        ("output.weight", (HIDDEN, VOCABULARY), "F16"),
        ("output_norm.weight", (HIDDEN,), "F32"),
    ]
    for layer in range(LAYERS):
        parts = _experts() + (_attention() if layer % 4 == 3 else _linear_attention())
        result += [(f"blk.{layer}.{name}", shape, kind) for name, shape, kind in parts]
    return result


def _experts() -> list[tuple[str, Shape, str]]:
    return [
        ("attn_norm.weight", (HIDDEN,), "F32"),
        ("post_attention_norm.weight", (HIDDEN,), "F32"),
        ("ffn_gate_inp.weight", (HIDDEN, EXPERTS), "F32"),
        ("ffn_gate_inp_shexp.weight", (HIDDEN,), "F32"),
        ("ffn_gate_exps.weight", (HIDDEN, EXPERT_WIDTH, EXPERTS), "F16"),
        ("ffn_up_exps.weight", (HIDDEN, EXPERT_WIDTH, EXPERTS), "F16"),
        ("ffn_down_exps.weight", (EXPERT_WIDTH, HIDDEN, EXPERTS), "F16"),
        ("ffn_gate_shexp.weight", (HIDDEN, EXPERT_WIDTH), "F16"),
        ("ffn_up_shexp.weight", (HIDDEN, EXPERT_WIDTH), "F16"),
        ("ffn_down_shexp.weight", (EXPERT_WIDTH, HIDDEN), "F16"),
    ]


def _attention() -> list[tuple[str, Shape, str]]:
    return [  # 16 query heads of 256 with a gate, 2 key and value heads
        ("attn_q.weight", (HIDDEN, 2 * 16 * 256), "F16"),
        ("attn_k.weight", (HIDDEN, 2 * 256), "F16"),
        ("attn_v.weight", (HIDDEN, 2 * 256), "F16"),
        ("attn_output.weight", (16 * 256, HIDDEN), "F16"),
        ("attn_q_norm.weight", (256,), "F32"),
        ("attn_k_norm.weight", (256,), "F32"),
    ]


def _linear_attention() -> list[tuple[str, Shape, str]]:
    return [  # 16 key heads and 32 value heads of 128
        ("attn_qkv.weight", (HIDDEN, (2 * 16 + 32) * 128), "F16"),
        ("attn_gate.weight", (HIDDEN, 32 * 128), "F16"),
        ("ssm_out.weight", (32 * 128, HIDDEN), "F16"),
        ("ssm_alpha.weight", (HIDDEN, 32), "F16"),
        ("ssm_beta.weight", (HIDDEN, 32), "F16"),
        ("ssm_conv1d.weight", (4, (2 * 16 + 32) * 128), "F32"),
        ("ssm_a", (32,), "F32"),
        ("ssm_dt.bias", (32,), "F32"),
        ("ssm_norm.weight", (128,), "F32"),
    ]


def metadata() -> dict[str, int | float | str | list[int] | list[str]]:
    """The keys that libllama needs, with a vocabulary and merges of true length."""
    a = "qwen35moe"
    return {
        "general.architecture": a,
        "general.name": "Qwen3.5-35B-A3B",
        "general.file_type": 1,
        f"{a}.block_count": LAYERS,
        f"{a}.context_length": 262144,
        f"{a}.embedding_length": HIDDEN,
        f"{a}.attention.head_count": 16,
        f"{a}.attention.head_count_kv": 2,
        f"{a}.attention.key_length": 256,
        f"{a}.attention.value_length": 256,
        f"{a}.attention.layer_norm_rms_epsilon": 1e-6,
        f"{a}.rope.dimension_sections": [11, 11, 10, 0],
        f"{a}.rope.freq_base": 1e7,
        f"{a}.rope.dimension_count": 64,
        f"{a}.expert_count": EXPERTS,
        f"{a}.expert_used_count": 8,
        f"{a}.expert_feed_forward_length": EXPERT_WIDTH,
        f"{a}.expert_shared_feed_forward_length": EXPERT_WIDTH,
        f"{a}.ssm.conv_kernel": 4,
        f"{a}.ssm.state_size": 128,
        f"{a}.ssm.group_count": 16,
        f"{a}.ssm.time_step_rank": 32,
        f"{a}.ssm.inner_size": 4096,
        f"{a}.full_attention_interval": 4,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen35",
        "tokenizer.ggml.tokens": [f"tok{i:06x}" for i in range(VOCABULARY)],
        "tokenizer.ggml.token_type": [1] * VOCABULARY,
        "tokenizer.ggml.merges": [f"m{i:05x} n{i:05x}" for i in range(VOCABULARY)],
    }


def write_header(path: Path) -> None:
    """Write the header and extend the file to its full 64.6 GiB without storing them."""
    table, end = b"", 0
    for name, shape, kind in tensors():
        table += _text(name) + struct.pack("<I", len(shape))
        table += struct.pack(f"<{len(shape)}q", *shape)
        table += struct.pack("<IQ", _TYPE_IDS[kind], end)
        end += -(-prod(shape) * _BYTES[kind] // 32) * 32
    keys = metadata()
    head = b"GGUF" + struct.pack("<Iqq", 3, len(tensors()), len(keys))
    head += b"".join(_text(key) + _value(value) for key, value in keys.items()) + table
    head += b"\0" * (-len(head) % 32)
    path.write_bytes(head)
    os.truncate(path, len(head) + end)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: int | float | str | list[int] | list[str]) -> bytes:
    if isinstance(value, list):
        if isinstance(value[0], str):
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(_text(str(v)) for v in value)
        return struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    return struct.pack("<II", 4, value)
