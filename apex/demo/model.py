"""Makes a small hybrid Mixture-of-Experts model with random weights shaped like real ones.

It has everything that the policy distinguishes: attention in every fourth layer and a gated delta
net in the others, routed and shared experts, a multi-token-prediction head, a vocabulary. It has
learned nothing; llama.cpp loads and runs it as any other model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from apex.demo.vocabulary import END_OF_TEXT, learn_vocabulary

__all__ = ["write_demo_model"]

_ARCHITECTURE = "qwen35moe"
_TRUNK_LAYERS = 8
_MTP_LAYERS = 1
_ATTENTION_EVERY = 4
_HIDDEN = 256
_EXPERTS = 16
_WIDTH = 256
_HEADS, _KV_HEADS, _HEAD = 4, 2, 64
_SSM_HEADS, _SSM_HEAD, _CONV = 4, 64, 4

# Kurtosis of real weights: routed experts are almost Gaussian, shared ones have heavy tails.
_ROUTED_KURTOSIS = 3.4
_SHARED_KURTOSIS = 13.1

Floats = npt.NDArray[np.float32]
Weights = npt.NDArray[np.float16] | npt.NDArray[np.float32]


def write_demo_model(path: str | os.PathLike[str], *, seed: int = 0) -> None:
    """Write the model as an F16 GGUF file of about 70 MB; the same seed gives the same bytes.

    The folder is made if it is not there.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(target, _ARCHITECTURE)
    _write_metadata(writer)
    for name, data in _tensors(np.random.default_rng(seed)):
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_metadata(writer: gguf.GGUFWriter) -> None:
    writer.add_name("apex demo")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_block_count(_TRUNK_LAYERS + _MTP_LAYERS)
    writer.add_nextn_predict_layers(_MTP_LAYERS)
    writer.add_context_length(4096)
    writer.add_embedding_length(_HIDDEN)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_key_length(_HEAD)
    writer.add_value_length(_HEAD)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(_HEAD // 2)
    writer.add_rope_dimension_sections([6, 5, 5, 0])
    writer.add_rope_freq_base(10000.0)
    writer.add_expert_count(_EXPERTS)
    writer.add_expert_used_count(2)
    writer.add_expert_feed_forward_length(_WIDTH)
    writer.add_expert_shared_feed_forward_length(_WIDTH)
    writer.add_full_attention_interval(_ATTENTION_EVERY)
    writer.add_ssm_conv_kernel(_CONV)
    writer.add_ssm_state_size(_SSM_HEAD)
    writer.add_ssm_group_count(_SSM_HEADS)
    writer.add_ssm_time_step_rank(_SSM_HEADS)
    writer.add_ssm_inner_size(_SSM_HEADS * _SSM_HEAD)
    tokens, merges = learn_vocabulary()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [
            gguf.TokenType.CONTROL if token == END_OF_TEXT else gguf.TokenType.NORMAL
            for token in tokens
        ]
    )
    writer.add_token_merges(merges)
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)


def _tensors(random: np.random.Generator) -> Iterator[tuple[str, Weights]]:
    vocabulary = len(learn_vocabulary()[0])
    yield "token_embd.weight", _normal(random, vocabulary, _HIDDEN).astype(np.float16)
    yield "output.weight", _matrix(random, vocabulary, _HIDDEN)
    yield "output_norm.weight", _norm(random, _HIDDEN)
    for layer in range(_TRUNK_LAYERS + _MTP_LAYERS):
        is_mtp = layer >= _TRUNK_LAYERS
        has_attention = is_mtp or (layer + 1) % _ATTENTION_EVERY == 0
        parts = _attention(random) if has_attention else _delta_net(random)
        for tensors in (parts, _experts(random), _mtp(random) if is_mtp else {}):
            for name, data in tensors.items():
                yield f"blk.{layer}.{name}", data


def _attention(random: np.random.Generator) -> dict[str, Weights]:
    return {
        "attn_norm.weight": _norm(random, _HIDDEN),
        "attn_q.weight": _matrix(random, 2 * _HEADS * _HEAD, _HIDDEN),  # with its gate
        "attn_k.weight": _matrix(random, _KV_HEADS * _HEAD, _HIDDEN),
        "attn_v.weight": _matrix(random, _KV_HEADS * _HEAD, _HIDDEN),
        "attn_output.weight": _branch(_normal(random, _HIDDEN, _HEADS * _HEAD)),
        "attn_q_norm.weight": _norm(random, _HEAD),
        "attn_k_norm.weight": _norm(random, _HEAD),
    }


def _delta_net(random: np.random.Generator) -> dict[str, Weights]:
    inner = _SSM_HEADS * _SSM_HEAD
    return {
        "attn_norm.weight": _norm(random, _HIDDEN),
        "attn_qkv.weight": _matrix(random, 3 * inner, _HIDDEN),
        "attn_gate.weight": _matrix(random, inner, _HIDDEN),
        "ssm_conv1d.weight": _normal(random, 3 * inner, _CONV) / np.float32(2),
        "ssm_a": -np.exp(_normal(random, _SSM_HEADS)),
        "ssm_dt.bias": _normal(random, _SSM_HEADS),
        "ssm_alpha.weight": _matrix(random, _SSM_HEADS, _HIDDEN),
        "ssm_beta.weight": _matrix(random, _SSM_HEADS, _HIDDEN),
        "ssm_norm.weight": _norm(random, _SSM_HEAD),
        "ssm_out.weight": _branch(_normal(random, _HIDDEN, inner)),
    }


def _experts(random: np.random.Generator) -> dict[str, Weights]:
    shapes = {"gate": (_WIDTH, _HIDDEN), "up": (_WIDTH, _HIDDEN), "down": (_HIDDEN, _WIDTH)}
    result: dict[str, Weights] = {
        "post_attention_norm.weight": _norm(random, _HIDDEN),
        "ffn_gate_inp.weight": _normal(random, _EXPERTS, _HIDDEN) / np.float32(4),
        "ffn_gate_inp_shexp.weight": _normal(random, _HIDDEN) / np.float32(16),
    }
    for name, (rows, columns) in shapes.items():
        scaled = _branch if name == "down" else _half
        routed = _heavy_tailed(random, _ROUTED_KURTOSIS, _EXPERTS, rows, columns)
        shared = _heavy_tailed(random, _SHARED_KURTOSIS, rows, columns)
        result[f"ffn_{name}_exps.weight"] = scaled(routed)
        result[f"ffn_{name}_shexp.weight"] = scaled(shared)
    return result


def _mtp(random: np.random.Generator) -> dict[str, Weights]:
    return {
        "nextn.eh_proj.weight": _matrix(random, _HIDDEN, 2 * _HIDDEN),
        "nextn.enorm.weight": _norm(random, _HIDDEN),
        "nextn.hnorm.weight": _norm(random, _HIDDEN),
        "nextn.shared_head_norm.weight": _norm(random, _HIDDEN),
    }


def _normal(random: np.random.Generator, *shape: int) -> Floats:
    return random.standard_normal(shape, dtype=np.float32)


def _norm(random: np.random.Generator, width: int) -> Floats:
    return np.float32(1) + _normal(random, width) / np.float32(20)


def _half(weights: Floats) -> npt.NDArray[np.float16]:
    """F16, scaled so that a layer keeps the size of what it is given."""
    return (weights / np.float32(weights.shape[-1] ** 0.5)).astype(np.float16)


def _branch(weights: Floats) -> npt.NDArray[np.float16]:
    """F16, scaled so that a layer adds little to what runs past it, as in trained models."""
    return _half(weights / np.float32(4))


def _matrix(random: np.random.Generator, rows: int, columns: int) -> npt.NDArray[np.float16]:
    return _half(_normal(random, rows, columns))


def _heavy_tailed(random: np.random.Generator, kurtosis: float, *shape: int) -> Floats:
    """Of variance 1 and the given kurtosis: a normal times a gamma-distributed spread.

    With v of mean 1 and variance s, sqrt(v) times a normal has kurtosis 3 (1 + s).
    """
    variance = kurtosis / 3 - 1
    spread: Floats = random.standard_gamma(1 / variance, shape, dtype=np.float32)
    result: Floats = _normal(random, *shape) * np.sqrt(spread * np.float32(variance))
    return result
