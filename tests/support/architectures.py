"""A tiny model of every architecture that the gguf package knows, with the real tensors' names.

llama.cpp's quantizer reads a model's hyperparameters, but neither builds its graph nor reads its
vocabulary. So every model gets the same generous set of keys, and tensors of small odd shapes: rows
of 256 and 512 weights, some of 96 (whole blocks of 32 only), some of 80 (none at all).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

LAYERS = 4
EXPERTS = 4
ROWS = 12

# Left out: the projector has tests of its own; the other llama.cpp knows by name only.
LEFT_OUT = ("clip", "gptj")

# These number encoder and decoder layers apart, which llama.cpp's rules for experts cannot read.
WITHOUT_EXPERTS = ("t5", "t5encoder")

# What some architectures want otherwise.
EXCEPTIONS: dict[str, dict[str, Any]] = {
    "gemma4": {"attention.sliding_window_pattern": [True] * LAYERS},
    "mimo2": {"attention.sliding_window_pattern": [True] * LAYERS},
    "step35": {"attention.sliding_window_pattern": [True] * LAYERS},
}


@dataclass(frozen=True)
class TensorSpec:
    name: str
    shape: tuple[int, ...]  # numpy's order: columns last
    type: str  # "F16", "BF16" or "F32"


@dataclass(frozen=True)
class ModelSpec:
    architecture: str
    metadata: dict[str, Any]
    tensors: tuple[TensorSpec, ...]


def architectures() -> dict[str, ModelSpec]:
    """Name to model, for all of ``gguf.MODEL_ARCH``."""
    result = {}
    for arch in gguf.MODEL_ARCH:
        name = gguf.MODEL_ARCH_NAMES[arch]
        if name not in LEFT_OUT:
            result[name] = model(name, gguf.MODEL_TENSORS[arch])
    return result


def model(
    architecture: str, tensors: Sequence[gguf.MODEL_TENSOR], layers: int = LAYERS
) -> ModelSpec:
    specs: dict[str, TensorSpec] = {}
    for tensor in tensors:
        pattern = gguf.TENSOR_NAMES[tensor]
        for layer in range(layers if "{bid}" in pattern else 1):
            spec = tensor_spec(pattern.format(bid=layer, xid=0))
            specs[spec.name] = spec
    return ModelSpec(architecture, metadata(architecture, layers), tuple(specs.values()))


def tensor_spec(base: str) -> TensorSpec:
    """A tensor whose shape follows from what its name says, and otherwise from its hash."""
    number = zlib.crc32(base.rpartition(".")[2].encode())
    name = base if base.endswith(("ssm_a", "ssm_d", "_exps.bias")) else f"{base}.weight"
    if any(word in base for word in ("norm", "bias", "ssm_a", "ssm_d", "sinks", "rope_freqs")):
        return TensorSpec(name, (256,), "F32")
    if "ffn_gate_inp" in base:
        return TensorSpec(name, (EXPERTS, 256), "F32")
    columns = (256, 256, 256, 512, 512, 96, 80)[number % 7]
    kind = ("F16", "F16", "F16", "BF16", "F32")[number % 5]
    if "exps" in base or base.endswith(("attn_k_b", "attn_v_b")):
        return TensorSpec(name, (EXPERTS, ROWS, columns), kind)
    return TensorSpec(name, (ROWS, columns), kind)


def metadata(architecture: str, layers: int) -> dict[str, Any]:
    """Keys that satisfy llama.cpp's load_hparams for any architecture."""
    values: dict[str, Any] = {
        "block_count": layers,
        "context_length": 512,
        "embedding_length": 256,
        "feed_forward_length": 512,
        "vocab_size": 64,
        "expert_count": EXPERTS,
        "expert_used_count": 2,
        "expert_shared_count": 1,
        "expert_group_count": 1,
        "expert_group_used_count": 1,
        "expert_feed_forward_length": 256,
        "expert_shared_feed_forward_length": 256,
        "expert_chunk_feed_forward_length": 128,
        "expert_weights_scale": 1.0,
        "expert_weights_norm": True,
        "expert_gating_func": 1,
        "experts_per_group": 2,
        "expert_group_scale": 0.5,
        "leading_dense_block_count": 1,
        "interleave_moe_layer_step": 1,
        "moe_every_n_layers": 2,
        "moe_latent_size": 64,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 64,
        "attention.value_length": 64,
        "attention.key_length_swa": 64,
        "attention.value_length_swa": 64,
        "attention.key_length_mla": 64,
        "attention.value_length_mla": 64,
        "attention.q_lora_rank": 64,
        "attention.kv_lora_rank": 64,
        "attention.layer_norm_epsilon": 1e-5,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.group_norm_epsilon": 1e-5,
        "attention.group_norm_groups": 2,
        "attention.clamp_kqv": 0.0,
        "attention.max_alibi_bias": 8.0,
        "attention.causal": True,
        "attention.scale": 1.0,
        "attention.output_scale": 1.0,
        "attention.temperature_length": 512,
        "attention.temperature_scale": 0.1,
        "attention.relative_buckets_count": 32,
        "attention.sliding_window": 128,
        "attention.sliding_window_pattern": 2,
        "attention.shared_kv_layers": 0,
        "attention.decay_lora_rank": 32,
        "attention.iclr_lora_rank": 32,
        "attention.value_residual_mix_lora_rank": 32,
        "attention.gate_lora_rank": 32,
        "attention.indexer.head_count": 2,
        "attention.indexer.key_length": 64,
        "attention.indexer.top_k": 16,
        "rope.dimension_count": 64,
        "rope.dimension_count_swa": 64,
        "rope.freq_base": 10000.0,
        "rope.freq_base_swa": 10000.0,
        "rope.dimension_sections": [16, 16, 0, 0],
        "rope.scaling.attn_factor": 1.0,
        "rope.scaling.factor": 1.0,
        "rope.scaling.yarn_log_multiplier": 0.1,
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 256,
        "ssm.state_size": 64,
        "ssm.time_step_rank": 4,
        "ssm.group_count": 4,
        "ssm.dt_b_c_rms": False,
        "shortconv.l_cache": 3,
        "kda.head_dim": 64,
        "wkv.head_size": 64,
        "time_mix_extra_dim": 32,
        "time_decay_extra_dim": 32,
        "rescale_every_n_layers": 6,
        "token_shift_count": 2,
        "features_length": 64,
        "posnet.embedding_length": 64,
        "posnet.block_count": 2,
        "convnext.embedding_length": 64,
        "convnext.block_count": 2,
        "decoder_start_token_id": 0,
        "decoder_block_count": layers,
        "use_parallel_residual": True,
        "pooling_type": 1,
        "logit_scale": 1.0,
        "embedding_scale": 1.0,
        "residual_scale": 1.0,
        "attn_logit_softcapping": 50.0,
        "router_logit_softcapping": 30.0,
        "final_logit_softcapping": 30.0,
        "swin_norm": False,
        "altup.active_idx": 0,
        "altup.num_inputs": 4,
        "embedding_length_per_layer_input": 64,
        "activation.sparsity_scale": [0.0] * layers,
        "n_layer_dense_lead": 1,
        "nextn_predict_layers": 1,
        "dense_2_feat_in": 256,
        "dense_2_feat_out": 256,
        "dense_3_feat_in": 256,
        "dense_3_feat_out": 256,
        "hidden_activation": "silu",
    }
    values |= EXCEPTIONS.get(architecture, {})
    keys = {f"{architecture}.{key}": value for key, value in values.items()}
    if architecture in WITHOUT_EXPERTS:
        keys = without_experts(keys)
    if architecture == "apertus":  # its keys have another prefix
        trunk = layers - 1
        keys |= {f"xielu.{key}": [0.1] * trunk for key in ("alpha_p", "alpha_n", "beta", "eps")}
    return keys


def without_experts(keys: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a dense model."""
    return {key: value for key, value in keys.items() if ".expert" not in key}


def write_model(path: Path, spec: ModelSpec, *, seed: int = 0, shards: int = 1) -> list[Path]:
    """Write a model, or shards of it; returns their paths."""
    random = np.random.default_rng(seed)
    paths = [path]
    if shards > 1:
        name = path.name.removesuffix(".gguf")
        paths = [path.with_name(f"{name}-{i + 1:05d}-of-{shards:05d}.gguf") for i in range(shards)]
    for index, shard in enumerate(paths):
        writer = gguf.GGUFWriter(shard, spec.architecture)
        if index == 0:
            writer.add_file_type(1)
            for key, value in spec.metadata.items():
                add_value(writer, key, value)
            writer.add_array("tokenizer.ggml.tokens", [f"t{i}" for i in range(64)])
        if shards > 1:
            writer.add_uint16("split.no", index)
            writer.add_uint16("split.count", shards)
            writer.add_int32("split.tensors.count", len(spec.tensors))
        for tensor in spec.tensors[index::shards]:
            add_tensor(writer, tensor, random)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return paths


def add_value(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def add_tensor(writer: gguf.GGUFWriter, tensor: TensorSpec, random: np.random.Generator) -> None:
    weights = random.standard_normal(tensor.shape, dtype=np.float32) / 16
    if tensor.type == "F16":
        writer.add_tensor(tensor.name, weights.astype(np.float16))
    elif tensor.type == "F32":
        writer.add_tensor(tensor.name, weights)
    else:
        bits = gguf.quantize(weights, gguf.GGMLQuantizationType.BF16)
        writer.add_tensor(tensor.name, bits, raw_dtype=gguf.GGMLQuantizationType.BF16)
