"""A Hugging Face folder to tiers: with a file in between, without, and several tiers in one pass.

python bench/conversion.py OUTPUT.json

The model is a Qwen3-MoE of random weights, 0.9 GB in two BF16 shards. Each case is a run of the
command line, so the import of PyTorch is in its time; cases take turns, and the shortest of three
counts. All files of one tier are first found to be equal. It needs the extra hf.
"""

from __future__ import annotations

import filecmp
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.huggingface import write_gpt2_tokenizer, write_tensors

LAYERS, HIDDEN, WIDTH, EXPERTS, HEADS, HEAD = 8, 1024, 512, 32, 16, 64
TIERS = ("quality", "balanced", "compact")
REPEATS = 3


def write_model(folder: Path) -> None:
    """In two shards, with a tokenizer."""
    import torch

    folder.mkdir()
    size = write_gpt2_tokenizer(folder)
    config = {
        **{"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "head_dim": HEAD},
        **{"hidden_size": HIDDEN, "intermediate_size": WIDTH, "moe_intermediate_size": WIDTH},
        **{"num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": 4},
        **{"num_experts": EXPERTS, "num_experts_per_tok": 4, "vocab_size": size},
        **{"max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "tie_word_embeddings": False},
    }
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens": (size, HIDDEN), "lm_head": (size, HIDDEN)}
    shapes["model.norm"] = (HIDDEN,)
    for layer in range(LAYERS):
        of_layer: dict[str, tuple[int, ...]] = {
            **{f"{name}_layernorm": (HIDDEN,) for name in ("input", "post_attention")},
            **{f"self_attn.{name}_norm": (HEAD,) for name in "qk"},
            "self_attn.q_proj": (HEADS * HEAD, HIDDEN),
            **{f"self_attn.{name}_proj": (4 * HEAD, HIDDEN) for name in "kv"},
            "self_attn.o_proj": (HIDDEN, HEADS * HEAD),
            "mlp.gate": (EXPERTS, HIDDEN),
        }
        for expert in range(EXPERTS):
            name = f"mlp.experts.{expert}"
            of_layer |= {f"{name}.{kind}_proj": (WIDTH, HIDDEN) for kind in ("gate", "up")}
            of_layer[f"{name}.down_proj"] = (HIDDEN, WIDTH)
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in of_layer.items()}
    torch.manual_seed(1)
    tensors = {f"{n}.weight": torch.randn(s).bfloat16() * 0.02 for n, s in shapes.items()}
    write_tensors(folder, tensors)


def run(*arguments: str | Path) -> dict[str, float]:
    """Seconds, processor seconds, and the most memory in MiB."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "apex", *map(str, arguments), "-q"]
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return {
        "seconds": time.perf_counter() - begin,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "peak_mib": used.ru_maxrss / 1024,
    }


def cases(model: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Each case once."""
    file = folder / "model.gguf"
    found = {"convert": run("convert", model, "-o", file)}
    for tier in TIERS:
        found[f"file to {tier}"] = run("quantize", file, folder / f"{tier}.gguf", "--tier", tier)
        direct = folder / f"direct-{tier}.gguf"
        found[f"folder to {tier}"] = run("quantize", model, direct, "--tier", tier)
        assert filecmp.cmp(direct, folder / f"{tier}.gguf", shallow=False)
    wanted = [word for tier in TIERS for word in ("--tier", tier)]
    found["folder to all"] = run("quantize", model, "-o", folder / "all", *wanted)
    for tier, made in zip(TIERS, ("Quality", "Balanced", "Compact"), strict=True):
        path = folder / "all" / f"{model.name}-APEX-{made}.gguf"
        assert filecmp.cmp(path, folder / f"{tier}.gguf", shallow=False)
    return found


def main(output: Path) -> None:
    """Make the model, run the cases in turns, and write what they took."""
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "model"
        # In a process of its own: the most memory of a child counts that of its parent.
        subprocess.run([sys.executable, __file__, "--write", model], check=True)
        size = sum(path.stat().st_size for path in model.glob("*.safetensors"))
        runs: list[dict[str, dict[str, float]]] = []
        for _ in range(REPEATS):
            folder = Path(name) / "outputs"
            folder.mkdir()
            runs.append(cases(model, folder))
            shutil.rmtree(folder)
    best: dict[str, Any] = {
        case: min((one[case] for one in runs), key=lambda found: found["seconds"])
        for case in runs[0]
    }
    data = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors",
        "bytes": size,
        "cases": {
            case: {key: round(value, 2) for key, value in found.items()}
            for case, found in best.items()
        },
    }
    output.write_text(json.dumps(data, indent=1) + "\n")
    print(output.read_text())


if __name__ == "__main__":
    if sys.argv[1] == "--write":
        write_model(Path(sys.argv[2]))
    else:
        main(Path(sys.argv[1]))
