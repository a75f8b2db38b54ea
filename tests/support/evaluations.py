"""What ``apex eval`` writes, with invented numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TYPES = ("Q6_K", "Q4_K", "IQ2_XXS")


def measured(value: float) -> dict[str, float]:
    return {"value": value, "error": value / 50}


def results(models: int = 3, **settings: Any) -> dict[str, Any]:
    """What ``apex eval`` writes, with invented numbers."""

    def model(index: int) -> dict[str, Any]:
        is_reference = index == 0
        kl = {**measured(0.002 * 3**index), "median": 0.001, "p99.9": 0.2, "maximum": 2.0 * index}
        return {
            "name": "model-f16" if is_reference else f"model-<{index}>",
            "path": f"/somewhere/{index}.gguf",
            "is_reference": is_reference,
            "bytes": (8 - index) * 2**30,
            "bits_per_weight": 16.0 - 4 * index,
            "architecture": "qwen35moe",
            "sha256": {"x": str(index)},
            "perplexity": {**measured(6.5 + index / 10), "positions": 1000, "chunks": 4},
            "divergence": None
            if is_reference
            else {"kl": kl, "same_top": measured(0.9), "dp_rms": measured(0.02)},
            "mtp_agreement": measured(0.7),
            "mtp_perplexity": measured(20.0),
            "tasks": [
                {
                    "kind": "hellaswag", "name": "val", "accuracy": 0.6, "error": 0.02,
                    "interval": [0.5, 0.7], "correct": 240, "tasks": 400, "chance": 0.25,
                }
            ],
            "harness": [
                {
                    "task": task, "metric": metric, "filter": kind, "value": 0.5 + index / 100,
                    "error": error, "samples": 80, "shots": 5, "version": "3",
                    "higher_is_better": better, "part_of": group,
                }
                for task, metric, kind, error, better, group in (
                    ("gsm8k", "exact_match", "strict-match", 0.05, True, None),
                    ("gsm8k", "perplexity", "none", None, False, None),
                    ("mmlu_law", "acc", "none", 0.05, True, "mmlu"),
                )
            ],
            "speed": {"repetitions": 5, "pp512": measured(900.0), "tg128": measured(40.0)},
            "tensors": [
                {
                    "name": f"blk.{layer}.{name}.weight", "layer": layer, "role": role,
                    "type": TYPES[(layer + index) % 3],
                    "bits_per_weight": 2.0 + (layer + index) % 3,
                    "rmse": None if is_reference else 0.01 * (layer + 1),
                }
                for layer in range(6)
                for name, role in (("attn_q", "attention"), ("ffn_up_exps", "routed expert"))
            ],
        }  # fmt: skip

    return {
        "format": "apex evaluation 1",
        "complete": True,
        "apex": "1",
        "llama.cpp": "2",
        "machine": {"processor": "a processor", "threads": 2},
        "settings": {
            "context_length": 512, "cache_type_k": "F16", "cache_type_v": "F16",
            "text": "wiki.txt", "tasks": [], **settings,
        },
        "seconds": 5.0,
        "peak_memory_bytes": 2**30,
        "notes": [],
        "models": [model(index) for index in range(models)],
    }  # fmt: skip


def written(folder: Path, *runs: dict[str, Any]) -> list[Path]:
    paths = [folder / f"{index}.json" for index in range(len(runs))]
    for path, run in zip(paths, runs, strict=True):
        path.write_text(json.dumps(run))
    return paths


def only_perplexity(run: dict[str, Any]) -> dict[str, Any]:
    """The same with all else left out: one plot is quick to draw."""
    for model in run["models"]:
        for key in ("divergence", "mtp_agreement", "mtp_perplexity", "speed"):
            model[key] = None
        model["tasks"] = model["harness"] = model["tensors"] = []
    return run
