"""Does an importance matrix help, and which text? Measures and prints a table.

python bench/quality.py MODEL DATA OUTPUT.json [--chunks N]

MODEL: an F16 model of 16 trunk layers (edge and near zones of 2 layers are used) with a
multi-token-prediction head. DATA: a folder with calibration-in-domain.txt and eval-*.txt, texts
that were not in the calibration.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import apex
from apex.calibration import CollectOptions, read_texts
from apex.evaluation import EvalOptions
from apex.inference import RunOptions

PLAIN = ("quality", "balanced", "compact")
WEIGHTED = ("i-quality", "i-balanced", "i-compact", "mini", "nano", "micro")
TEXTS = ("built-in", "in-domain", "both")
# The head in a type that an importance matrix can help, and in one where it should help more.
HEAD_TYPES = ("Q4_K", "Q2_K")


def make_matrices(model: Path, data: Path, folder: Path) -> dict[str, Path]:
    domain = read_texts([data / "calibration-in-domain.txt"])
    cases: dict[str, dict[str, Any]] = {
        "built-in": {},
        "in-domain": {"texts": domain},
        "both": {"texts": domain, "built_in": True},
        "without head": {"options": CollectOptions(mtp=False)},
    }
    paths = {}
    for name, options in cases.items():
        paths[name] = folder / f"{name}.gguf"
        apex.calibrate(model, paths[name], **options)
    return paths


def make_files(model: Path, matrices: dict[str, Path], folder: Path) -> dict[str, Path]:
    def quantize(name: str, **options: Any) -> None:
        files[name] = folder / f"{name}.gguf"
        apex.quantize(model, files[name], edge_layers=2, near_layers=2, **options)

    files: dict[str, Path] = {}
    for tier in PLAIN:
        quantize(tier, tier=tier)
    for tier in WEIGHTED:
        for text in TEXTS:
            quantize(f"{tier}, {text}", tier=tier, imatrix=matrices[text])
    for head in HEAD_TYPES:
        for text in ("built-in", "without head"):
            quantize(
                f"head {head}, {text}",
                tier="i-quality",
                imatrix=matrices[text],
                tensor_types=[rf"blk\.16\.={head}"],
            )
    return files


def measure(
    model: Path, files: dict[str, Path], texts: list[Path], chunks: int, *, mtp: bool
) -> dict[str, Any]:
    """By file: KL over all texts, per text, and the head's agreement with the trunk."""
    found: dict[str, Any] = {name: {"kl_per_text": {}, "mtp": []} for name in files}
    for text in texts:
        options = EvalOptions(run=RunOptions(), text=text, chunks=chunks, mtp=mtp, file_hash=False)
        evaluator = apex.Evaluator(list(files.values()), options, reference=model)
        evaluator.run()
        for name, result in zip(files, evaluator.models, strict=True):
            assert result.divergence is not None
            found[name]["kl_per_text"][text.stem] = result.divergence.kl.to_dict()
            if result.mtp_agreement is not None:
                found[name]["mtp"].append(result.mtp_agreement.to_dict())
        print(text.stem, flush=True)
    for name, numbers in found.items():
        means = [kl["value"] for kl in numbers["kl_per_text"].values()]
        errors = [kl["error"] for kl in numbers["kl_per_text"].values()]
        numbers["bytes"] = files[name].stat().st_size
        numbers["kl"] = float(np.mean(means))
        numbers["kl_error"] = float(np.sqrt(np.sum(np.square(errors))) / len(errors))
    return found


def machine() -> dict[str, Any]:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return {"processor": names[0] if names else "", "threads": apex.cpu_info().threads}


def table(results: dict[str, Any]) -> list[str]:
    found = results["trunk"]
    lines = [
        "| tier | plain | built-in text | in-domain text | both |",
        "|---|---:|---:|---:|---:|",
    ]
    for tier in WEIGHTED:
        plain = found.get(tier.removeprefix("i-")) if tier.startswith("i-") else None
        cells = [f"{plain['kl']:.5f}" if plain else "needs one"]
        for text in TEXTS:
            kl = found[f"{tier}, {text}"]["kl"]
            change = f" ({100 * (kl / plain['kl'] - 1):+.0f} %)" if plain else ""
            cells.append(f"{kl:.5f}{change}")
        lines.append(f"| {tier} | {' | '.join(cells)} |")
    lines += ["", "| head | with its data | without |", "|---|---:|---:|"]
    for head in HEAD_TYPES:
        cells = []
        for text in ("built-in", "without head"):
            parts = results["head"][f"head {head}, {text}"]["mtp"]
            share = float(np.mean([part["value"] for part in parts]))
            error = float(np.sqrt(np.sum(np.square([part["error"] for part in parts]))))
            cells.append(f"{100 * share:.2f} ± {100 * error / len(parts):.2f} %")
        lines.append(f"| {head} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--chunks", type=int, default=12)
    given = parser.parse_args()
    texts = sorted(given.data.glob("eval-*.txt"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        matrices = make_matrices(given.model, given.data, folder)
        files = make_files(given.model, matrices, folder)
        heads = {name: path for name, path in files.items() if name.startswith("head")}
        rest = {name: path for name, path in files.items() if name not in heads}
        results = {
            "model": given.model.name,
            "texts": [text.name for text in texts],
            "chunks_per_text": given.chunks,
            "machine": machine(),
            "apex": apex.__version__,
            "trunk": measure(given.model, rest, texts, given.chunks, mtp=False),
            "head": measure(given.model, heads, texts, given.chunks, mtp=True),
        }
    given.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
