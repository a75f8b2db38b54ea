"""Small models of random weights that libllama runs: a plain mixture of experts, and one with MLA.

Their vocabulary has 400 tokens, bytes and a few words.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from support.language import add_vocabulary

WIDTH, HEADS, EXPERTS, TOKENS, LAYERS = 256, 4, 4, 400, 2

Shapes = dict[str, tuple[int, ...]]


def write_moe(path: Path) -> None:
    """Qwen3's architecture."""
    head = WIDTH // HEADS
    layer: Shapes = {
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (WIDTH // 2, WIDTH),
        "attn_v": (WIDTH // 2, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "attn_q_norm": (head,),
        "attn_k_norm": (head,),
        **_experts(WIDTH),
    }
    keys = {
        "attention.head_count_kv": HEADS // 2,
        "attention.key_length": head,
        "attention.value_length": head,
        "rope.dimension_count": head,
        "feed_forward_length": 2 * WIDTH,
        "expert_feed_forward_length": WIDTH,
    }
    _write(path, "qwen3moe", keys, [layer] * LAYERS)


def write_mla(path: Path) -> None:
    """DeepSeek's architecture, with a dense layer first; rows of 64 and 32 weights among others."""
    rank, nope, rope, value = 64, 32, 32, 64
    attention: Shapes = {
        "attn_q_a": (rank, WIDTH),
        "attn_q_a_norm": (rank,),
        "attn_q_b": (HEADS * (nope + rope), rank),
        "attn_kv_a_mqa": (rank + rope, WIDTH),
        "attn_kv_a_norm": (rank,),
        "attn_k_b": (HEADS, rank, nope),
        "attn_v_b": (HEADS, value, rank),
        "attn_output": (WIDTH, HEADS * value),
    }
    dense: Shapes = {
        "ffn_gate": (2 * WIDTH, WIDTH),
        "ffn_up": (2 * WIDTH, WIDTH),
        "ffn_down": (WIDTH, 2 * WIDTH),
    }
    shared: Shapes = {
        "ffn_gate_shexp": (WIDTH, WIDTH),
        "ffn_up_shexp": (WIDTH, WIDTH),
        "ffn_down_shexp": (WIDTH, WIDTH),
    }
    keys = {
        "attention.head_count_kv": 1,
        "attention.q_lora_rank": rank,
        "attention.kv_lora_rank": rank,
        "attention.key_length": rank + rope,
        "attention.value_length": rank,
        "attention.key_length_mla": nope + rope,
        "attention.value_length_mla": value,
        "rope.dimension_count": rope,
        "feed_forward_length": 2 * WIDTH,
        "expert_feed_forward_length": WIDTH,
        "expert_shared_count": 1,
        "leading_dense_block_count": 1,
    }
    layers = [attention | dense, attention | _experts(WIDTH) | shared]
    _write(path, "deepseek2", keys, layers)


def _experts(hidden: int) -> Shapes:
    return {
        "ffn_gate_inp": (EXPERTS, WIDTH),
        "ffn_gate_exps": (EXPERTS, hidden, WIDTH),
        "ffn_up_exps": (EXPERTS, hidden, WIDTH),
        "ffn_down_exps": (EXPERTS, WIDTH, hidden),
    }


def _write(path: Path, architecture: str, keys: dict[str, int], layers: list[Shapes]) -> None:
    random = np.random.default_rng(11)
    writer = gguf.GGUFWriter(path, architecture)
    common = {
        "block_count": len(layers),
        "context_length": 512,
        "embedding_length": WIDTH,
        "attention.head_count": HEADS,
        "expert_count": EXPERTS,
        "expert_used_count": 2,
    }
    for key, value in (common | keys).items():
        writer.add_uint32(f"{architecture}.{key}", value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(1)
    add_vocabulary(writer, TOKENS)
    shapes: Shapes = {"token_embd": (TOKENS, WIDTH), "output_norm": (WIDTH,)}
    shapes |= {"output": (TOKENS, WIDTH)}
    for number, layer in enumerate(layers):
        norms: Shapes = {"attn_norm": (WIDTH,), "ffn_norm": (WIDTH,)}
        shapes |= {f"blk.{number}.{name}": shape for name, shape in (norms | layer).items()}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", _weights(shape, name, random))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _weights(shape: tuple[int, ...], name: str, random: np.random.Generator) -> np.ndarray:
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    values = random.standard_normal(shape, dtype=np.float32)
    if name == "token_embd":
        return values.astype(np.float16)
    scale = 4.0 if name == "output" else 1.5
    weights = values * np.float32(scale / np.sqrt(shape[-1]))
    return weights if name.endswith("ffn_gate_inp") else weights.astype(np.float16)
