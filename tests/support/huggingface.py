"""Small models in Hugging Face form, and what upstream's script makes of them.

As a script it makes them all, in a process of its own: torch and transformers warn, and upstream's
script takes the gguf package beside it.
"""

from __future__ import annotations

import json
import sys
from math import prod
from pathlib import Path
from typing import Any

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
    import gguf
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


def read_tensors(folder: Path) -> dict[str, Any]:
    """All tensors of a folder's safetensors files."""
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def write_tensors(folder: Path, tensors: dict[str, Any]) -> Path:
    """Replace a folder's safetensors files by two shards with an index."""
    from safetensors.torch import save_file

    for old in folder.glob("*.safetensors*"):
        old.unlink()
    names = sorted(tensors)
    places = {}
    for index, part in enumerate((names[::2], names[1::2])):
        file = f"model-{index + 1:05d}-of-00002.safetensors"
        save_file({name: tensors[name].contiguous() for name in part}, folder / file)
        places.update(dict.fromkeys(part, file))
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def add_mtp_head(folder: Path, layer: str) -> Path:
    """Give a model a multi-token-prediction head, which transformers leaves out: like a layer."""
    import torch

    tensors = read_tensors(folder)
    hidden = next(v for name, v in tensors.items() if name.endswith("input_layernorm.weight"))
    head = {
        name.replace(layer, "mtp.layers.0."): tensor * 1.5
        for name, tensor in tensors.items()
        if name.startswith(layer)
    }
    for name in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"):
        head[f"mtp.{name}.weight"] = hidden * 0.5
    head["mtp.fc.weight"] = torch.randn(len(hidden), 2 * len(hidden)).to(torch.bfloat16)
    return write_tensors(folder, {**tensors, **head})


def write_large(folder: Path, layers: int) -> int:
    """A Llama of which there are only the headers; the rest of its file are holes. Its size."""
    folder.mkdir()
    write_sentencepiece(folder)
    hidden, width, heads, vocabulary = 16384, 53248, 128, 400
    config = {
        **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "rms_norm_eps": 1e-5},
        **{"hidden_size": hidden, "intermediate_size": width, "num_hidden_layers": layers},
        **{"num_attention_heads": heads, "num_key_value_heads": heads, "vocab_size": vocabulary},
        "max_position_embeddings": 4096,
    }
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens": (vocabulary, hidden), "lm_head": (vocabulary, hidden)}
    shapes["model.norm"] = (hidden,)
    for layer in range(layers):
        shapes |= {
            f"model.layers.{layer}.{name}": shape
            for name, shape in {
                "input_layernorm": (hidden,),
                "post_attention_layernorm": (hidden,),
                **{f"self_attn.{x}_proj": (hidden, hidden) for x in "qkvo"},
                "mlp.gate_proj": (width, hidden),
                "mlp.up_proj": (width, hidden),
                "mlp.down_proj": (hidden, width),
            }.items()
        }
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * prod(shape)
        header[f"{name}.weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": (start, end)}
    data = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(data).to_bytes(8, "little") + data)
        file.truncate(8 + len(data) + end)
    return end


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
        norm_topk_prob=True,
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
    save(Qwen3NextForCausalLM(config), folder, shard="4MB")
    return add_mtp_head(folder, "model.layers.3.")


def qwen3_5_moe(folder: Path) -> Path:
    """A model with a vision tower, for its projector alone: it has no vocabulary."""
    import torch
    from transformers import Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration

    folder.mkdir()
    torch.manual_seed(5)
    text = {
        **{"vocab_size": 64, "hidden_size": 64, "moe_intermediate_size": 32},
        **{"shared_expert_intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 32},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "num_experts": 4},
        **{"linear_num_key_heads": 2, "linear_num_value_heads": 2, "num_experts_per_tok": 2},
    }
    vision = {
        **{"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2},
        **{"out_hidden_size": 64, "num_position_embeddings": 16, "deepstack_visual_indexes": []},
    }
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "patch_size": 16})
    )
    config = Qwen3_5MoeConfig(text_config=text, vision_config=vision)
    return save(Qwen3_5MoeForConditionalGeneration(config), folder)


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
        scoring_func="sigmoid",
        topk_method="noaux_tc",
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


def deepseek_fp8(folder: Path) -> Path:
    """The same in the form of DeepSeek's own checkpoints: FP8 with a scale per block."""
    import torch

    deepseek_v3(folder)
    tensors = {}
    for name, tensor in read_tensors(folder).items():
        tensors[name] = tensor
        if name.endswith("_proj.weight"):
            rows, columns = (-(-count // 16) for count in tensor.shape)
            tensors[name] = tensor.float().to(torch.float8_e4m3fn)
            tensors[name + "_scale_inv"] = torch.rand(rows, columns) + 0.5
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    path.write_text(json.dumps(config), encoding="utf-8")
    return write_tensors(folder, tensors)


# Of each model, what it is converted with.
CONVERSIONS: dict[Any, tuple[tuple[str, ...], ...]] = {
    llama: ((), ("--outtype", "bf16"), ("--outtype", "f16"), ("--outtype", "f32")),
    qwen3_moe: ((), ("--outtype", "f32"), ("--outtype", "q8_0")),
    qwen3_next: ((), ("--no-mtp",), ("--mtp",)),
    qwen3_5_moe: (("--mmproj",), ("--mmproj", "--outtype", "f16")),
    deepseek_v3: ((), ("--outtype", "f32")),
    deepseek_fp8: ((), ("--outtype", "q8_0")),
    gpt_oss: ((), ("--outtype", "f16")),
}
# The models whose logits are compared.
RUN = (llama, qwen3_moe, deepseek_v3)
TOKENS = (1, 17, 300, 42, 260, 5, 399, 128, 77, 301, 9, 11)


def name_of(model: str, options: tuple[str, ...]) -> str:
    """The file that upstream's script writes with these options."""
    return "".join((model, *options)) + ".gguf"


def _write_logits(folder: Path, output: Path) -> None:
    """What transformers says the next tokens are, in float32."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        np.save(output, model(torch.tensor([TOKENS])).logits[0].numpy())


def _forget_options(base: Any) -> None:
    """What the script's options leave on its classes."""
    for each in base.__subclasses__():
        for name in {"no_mtp", "mtp_only"} & vars(each).keys():
            delattr(each, name)
        _forget_options(each)


def main(folder: Path, *names: str) -> None:
    """Make models, their conversions and their logits."""
    sys.path[:0] = [str(UPSTREAM), str(UPSTREAM / "gguf-py")]
    import convert_hf_to_gguf

    for make, conversions in CONVERSIONS.items():
        if make.__name__ not in names:
            continue
        made = make(folder / make.__name__)
        for options in conversions:
            output = folder / name_of(make.__name__, options)
            sys.argv = ["convert_hf_to_gguf.py", str(made), "--outfile", str(output), *options]
            convert_hf_to_gguf.main()
            _forget_options(convert_hf_to_gguf.ModelBase)
        if make in RUN:
            _write_logits(made, folder / f"{make.__name__}.npy")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
