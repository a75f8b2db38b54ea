"""Draws the size of each tier against its quality, from what bench/quality.py wrote.

python bench/plot_tiers.py bench/results/quality-NAME.json PLOT.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PLAIN = ("quality", "balanced", "compact")
WEIGHTED = ("i-quality", "i-balanced", "i-compact", "mini", "nano", "micro")
# The text of --imatrix auto.
CALIBRATION = "built-in"
COLOURS = {"plain": "#D55E00", "weighted": "#0072B2"}
# What the JSON does not say about its model, and how many positions are scored of a chunk of 512.
MODEL = "A trained hybrid MoE of 64 M weights"
F16_MIB = 123
POSITIONS = 255
# Where a name is written, in points from its point: away from the others and from the error bars.
OFFSETS = {
    "quality": (9, 9),
    "i-quality": (-7, -16),
    "balanced": (9, 9),
    "i-balanced": (4, -16),
    "compact": (10, 3),
    "i-compact": (-4, -17),
    "nano": (10, 2),
    "micro": (-4, 12),
    "mini": (10, 2),
}


def draw(results: dict[str, Any], target: Path) -> None:
    """Points with standard errors; a logarithmic axis, for the tiers span more than a tenfold."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(figsize=(7, 4.4), layout="constrained")
    for names, kind, label in (
        (PLAIN, "plain", "without an importance matrix"),
        (WEIGHTED, "weighted", "with one, made from the built-in texts"),
    ):
        files = [results["trunk"][n if kind == "plain" else f"{n}, {CALIBRATION}"] for n in names]
        axes.errorbar(
            [file["bytes"] / 2**20 for file in files],
            [file["kl"] for file in files],
            [file["kl_error"] for file in files],
            fmt="s" if kind == "plain" else "o",
            color=COLOURS[kind],
            markerfacecolor="white" if kind == "plain" else COLOURS[kind],
            markersize=7,
            capsize=3,
            linewidth=1,
            label=label,
        )
        for name, file in zip(names, files, strict=True):
            axes.annotate(
                name,
                (file["bytes"] / 2**20, file["kl"]),
                OFFSETS[name],
                textcoords="offset points",
                color=COLOURS[kind],
            )
    ticks = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
    axes.set_yscale("log")
    axes.set_ylim(0.00085, 0.04)
    axes.set_yticks([tick for tick in ticks if tick < 0.04], [f"{t:g}" for t in ticks if t < 0.04])
    axes.minorticks_off()
    axes.set_xlim(19, 54)
    axes.grid(color="#dddddd")
    axes.set_axisbelow(True)
    axes.set_xlabel(f"file size, MiB (F16: {F16_MIB} MiB)")
    axes.set_ylabel("mean KL divergence from F16, nats")
    axes.legend(loc="upper right", frameon=False)
    positions = len(results["texts"]) * results["chunks_per_text"] * POSITIONS
    axes.set_title(
        f"{MODEL}; {len(results['texts'])} texts that no calibration "
        f"saw,\n{positions:,} positions; lower and further left is better",
        fontsize=10,
        loc="left",
    )
    figure.savefig(target, dpi=200, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))
