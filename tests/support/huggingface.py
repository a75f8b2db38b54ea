"""Small models in Hugging Face form, and what upstream's script makes of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf

ROOT = Path(__file__).parents[2]
UPSTREAM = ROOT / "vendor" / "llama.cpp"
# The vocabulary of this file is one whose pre-tokenizer upstream's converter recognizes.
GPT2 = UPSTREAM / "models" / "ggml-vocab-gpt-2.gguf"

TEXT = "Once upon a time there was a small model, and all its weights were known to the tests. "


def save(model: Any, folder: Path, *, shard: str = "100KB") -> Path:
    """Write a model as its publishers do: BF16, in shards."""
    import torch

    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size=shard)
    return folder


def write_gpt2_tokenizer(folder: Path) -> int:
    """A byte-level BPE tokenizer; returns the size of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    fields = gguf.GGUFReader(GPT2).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    fast.save_pretrained(folder)
    return len(tokens)


def write_sentencepiece(folder: Path, size: int = 400) -> None:
    """A vocabulary that is trained here; also as a fast tokenizer."""
    import sentencepiece

    words = [f"{TEXT}{number * 7919 % 1009} {chr(97 + number % 26) * 3}" for number in range(200)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=size,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        minloglevel=2,
        hard_vocab_limit=True,
    )
    (folder / "tokenizer.vocab").unlink()
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def upstreams_files(jobs: Sequence[tuple[Path, Path, Sequence[str]]]) -> None:
    """Let upstream's script convert (folder, output, options), one after the other.

    It runs in a process of its own, so that it has its own gguf package.
    """
    lists = [[str(folder), "--outfile", str(output), *rest] for folder, output, rest in jobs]
    result = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(UPSTREAM), json.dumps(lists)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert result.returncode == 0, result.stderr


_SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import convert_hf_to_gguf
for arguments in json.loads(sys.argv[2]):
    sys.argv = ["convert_hf_to_gguf.py", *arguments]
    convert_hf_to_gguf.main()
"""


def llama(folder: Path, **changes: Any) -> Path:
    """A dense Llama, with a vocabulary of SentencePiece."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir()
    write_sentencepiece(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        **{
            **{"vocab_size": 400, "hidden_size": 64, "intermediate_size": 96},
            **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
            **{"max_position_embeddings": 256, "initializer_range": 0.1},
            **changes,
        }
    )
    return save(LlamaForCausalLM(config), folder)


def qwen3_moe(folder: Path) -> Path:
    """A mixture of experts."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    folder.mkdir()
    size = write_gpt2_tokenizer(folder)
    torch.manual_seed(2)
    config = Qwen3MoeConfig(
        vocab_size=size,
        hidden_size=64,
        intermediate_size=96,
        moe_intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=256,
        initializer_range=0.1,
    )
    return save(Qwen3MoeForCausalLM(config), folder, shard="4MB")


def qwen3_next(folder: Path) -> Path:
    """A hybrid: linear attention in three of four layers, and a mixture of experts."""
    import torch
    from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

    folder.mkdir()
    size = write_gpt2_tokenizer(folder)
    torch.manual_seed(3)
    config = Qwen3NextConfig(
        vocab_size=size,
        hidden_size=64,
        intermediate_size=96,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=256,
    )
    return save(Qwen3NextForCausalLM(config), folder, shard="4MB")


def qwen3_5_moe(folder: Path) -> Path:
    """A hybrid mixture of experts with a vision tower."""
    import torch
    from transformers import Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration

    folder.mkdir()
    size = write_gpt2_tokenizer(folder)
    torch.manual_seed(5)
    config = Qwen3_5MoeConfig(
        text_config={
            "vocab_size": size,
            "hidden_size": 64,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "max_position_embeddings": 256,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [],
        },
    )
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "patch_size": 16})
    )
    return save(Qwen3_5MoeForConditionalGeneration(config), folder, shard="4MB")


def deepseek_v3(folder: Path) -> Path:
    """Latent attention, a dense first layer, and a mixture of experts with a shared one."""
    import torch
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    folder.mkdir()
    size = write_gpt2_tokenizer(folder)
    torch.manual_seed(4)
    config = DeepseekV3Config(
        vocab_size=size,
        hidden_size=64,
        intermediate_size=96,
        moe_intermediate_size=32,
        num_hidden_layers=2,
        first_k_dense_replace=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        q_lora_rank=32,
        kv_lora_rank=32,
        qk_rope_head_dim=16,
        qk_nope_head_dim=16,
        v_head_dim=16,
        n_routed_experts=8,
        num_experts_per_tok=2,
        n_shared_experts=1,
        n_group=2,
        topk_group=1,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    return save(DeepseekV3ForCausalLM(config), folder, shard="4MB")


def gpt_oss(folder: Path) -> Path:
    """Experts whose gates and ups are interleaved, with biases; BF16 here, not MXFP4."""
    import torch
    from transformers import GptOssConfig, GptOssForCausalLM

    folder.mkdir()
    size = write_gpt2_tokenizer(folder)
    torch.manual_seed(6)
    config = GptOssConfig(
        vocab_size=size,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=256,
    )
    return save(GptOssForCausalLM(config), folder, shard="4MB")
