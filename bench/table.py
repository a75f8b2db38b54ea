"""Prints the tables of a saved run as Markdown, and draws the kernels' ratios.

python bench/table.py bench/results/NAME.json [PLOT.png]
"""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

Groups = dict[str, dict[str, dict[str, Any]]]


def groups(results: dict[str, Any]) -> Groups:
    """Runs by group and by whose they are."""
    found: Groups = defaultdict(dict)
    for run in results["benchmarks"]:
        found[run["group"]][run["extra_info"]["who"]] = run
    return found


def speed(run: dict[str, Any]) -> float:
    """Mweights/s."""
    return float(run["extra_info"]["weights"] / run["stats"]["median"] / 1e6)


def kernels(found: Groups) -> dict[str, dict[str, dict[str, Any]]]:
    return {name: sides for name, sides in found.items() if "ggml" in sides}


def isas(found: Groups) -> list[str]:
    return [who for who in next(iter(found.values())) if who != "ggml"]


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def kernel_table(found: Groups) -> list[str]:
    names = isas(found)
    lines = [
        "| type | | ggml | " + " | ".join(names) + " |",
        "|---|---|" + "---:|" * (1 + len(names)),
    ]
    ratios: dict[str, list[float]] = defaultdict(list)
    for name, sides in found.items():
        base = speed(sides["ggml"])
        cells = []
        for isa in names:
            ratios[isa].append(speed(sides[isa]) / base)
            cells.append(f"{speed(sides[isa]):.1f} ({ratios[isa][-1]:.1f}×)")
        lines.append(f"| {name.replace(' ', ' | ')} | {base:.1f} | {' | '.join(cells)} |")
    means = " | ".join(f"{geometric_mean(ratios[isa]):.1f}×" for isa in names)
    return [*lines, f"| geometric mean | | | {means} |"]


def file_table(found: Groups) -> list[str]:
    lines = [
        "| file | apex, Mweights/s | llama_model_quantize | ratio | "
        "reading / quantizing / writing / syncing / all, s |",
        "|---|---:|---:|---:|---|",
    ]
    stages = ("reading", "quantizing", "writing", "syncing", "total")
    for name, sides in found.items():
        ours, theirs = speed(sides["apex"]), speed(sides["llama"])
        seconds = sides["apex"]["extra_info"]["seconds"]
        split = " / ".join(f"{seconds[stage]:.2f}" for stage in stages)
        lines.append(
            f"| {name.removeprefix('file ')} | {ours:.1f} | {theirs:.1f} | "
            f"{ours / theirs:.1f}× | {split} |"
        )
    return lines


def tables(results: dict[str, Any]) -> str:
    machine = results["machine_info"]
    text = [
        f"{machine.get('processor_name', machine['machine'])}, {machine['threads']} processors, "
        f"apex {machine['apex']}, ggml {machine['ggml']}, {results['datetime'][:10]}",
    ]
    found = groups(results)
    bare = kernels(found)
    files = {name: sides for name, sides in found.items() if "llama" in sides}
    if bare:
        text += ["", "Kernels, one thread, Mweights/s:", "", *kernel_table(bare)]
    if files:
        text += ["", "Files, all threads:", "", *file_table(files)]
    return "\n".join(text)


def plot(results: dict[str, Any], target: Path) -> None:
    """Bars: how many times ggml's speed, per type and instruction set."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = kernels(groups(results))
    names = isas(found)
    figure, axes = plt.subplots(figsize=(9, 0.34 * len(found) + 1.2), layout="constrained")
    height = 0.8 / len(names)
    for place, isa in enumerate(names):
        ratios = [speed(sides[isa]) / speed(sides["ggml"]) for sides in found.values()]
        at = [row + place * height - 0.4 + height / 2 for row in range(len(found))]
        axes.barh(at, ratios, height, label=isa, color=plt.get_cmap("viridis")(0.85 - 0.25 * place))
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    ticks = [0.25, 0.5, 1, 2, 4, 8, 16, 32]
    axes.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(found)), list(found))
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    machine = results["machine_info"]
    axes.set_title(
        f"Quantizing on one thread, times ggml's speed\n{machine.get('processor_name', '')}",
        fontsize=11,
    )
    axes.legend(title="instruction set", loc="lower right", fontsize=9)
    figure.savefig(target, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    saved = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.stdout.write(tables(saved) + "\n")
    if len(sys.argv) > 2:
        plot(saved, Path(sys.argv[2]))
