"""Draws what bench/fitting.py measured, and prints its tables.

python bench/plot_fitting.py bench/results/fitting-NAME.json SIZES.png PREDICTIONS.png

SIZES.png: fitted files, tiers and stock mixes, size against KL. PREDICTIONS.png: predicted against
measured KL of solved and of random choices of types.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

COLOURS = {"fit": "#009E73", "tier": "#0072B2", "stock": "#D55E00"}
# Where a name is written, in points from its point, where there is no room above on the right.
OFFSETS = {"i-compact": (-58, -4), "nano": (6, -13), "i-quality": (-44, 8)}
TICKS = (0.0003, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)


def draw_sizes(results: dict[str, Any], target: Path) -> None:
    """Each tier and mix, and the fit of the same bytes."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7, 4.4), layout="constrained")
    fits = []
    for part, kind, label in (
        ("sizes", "tier", "tiers, with an importance matrix"),
        ("stock", "stock", "llama.cpp's mixes, with the same one"),
    ):
        rows = results[part]
        points(axes, [row["itself"] for row in rows], COLOURS[kind], "o", label)
        fits += [row["fit"] for row in rows]
        for row in rows:
            place = (row["itself"]["bytes"] / 2**20, row["itself"]["kl"])
            axes.annotate(
                row["name"],
                place,
                OFFSETS.get(row["name"], (6, 5)),
                textcoords="offset points",
                color=COLOURS[kind],
            )
    fits.sort(key=lambda file: file["bytes"])
    points(axes, fits, COLOURS["fit"], "D-", "fitted to the same bytes (apex fit)")
    logarithmic(axes.set_yscale, axes.set_yticks, axes.set_ylim, [f["kl"] for f in fits])
    axes.set_xlabel("file size, MiB")
    axes.set_ylabel("mean KL divergence from F16, nats")
    axes.legend(loc="upper right", frameon=False)
    axes.set_title(
        "A trained hybrid MoE of 64 M weights; measured over "
        f"{results['positions']:,} positions of\n{len(results['texts'])} texts that nothing was "
        "fitted to; lower and further left is better",
        fontsize=10,
        loc="left",
    )
    save(plt, figure, axes, target)


def points(axes: Any, files: list[dict[str, Any]], colour: str, form: str, label: str) -> None:
    axes.errorbar(
        [file["bytes"] / 2**20 for file in files],
        [file["kl"] for file in files],
        [file["error"] for file in files],
        fmt=form,
        color=colour,
        markersize=6,
        capsize=3,
        linewidth=1,
        label=label,
    )


def draw_predictions(results: dict[str, Any], target: Path) -> None:
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(5.5, 5), layout="constrained")
    for kind, marker in (("solved", "D"), ("random", "o")):
        rows = [row for row in results["predictions"] if row["kind"] == kind]
        image = axes.scatter(
            [row["predicted"] for row in rows],
            [row["kl"] for row in rows],
            c=[row["bits"] for row in rows],
            marker=marker,
            vmin=2,
            vmax=8.5,
            edgecolors="#444444",
            label=f"{kind}, rank correlation {correlation(rows):.3f}",
        )
    values = [row[key] for row in results["predictions"] for key in ("predicted", "kl")]
    span = (min(values) / 1.5, max(values) * 1.5)
    axes.plot(span, span, color="#888888", linewidth=1)
    axes.set(xscale="log", yscale="log", xlim=span, ylim=span)
    axes.set_xlabel("predicted KL divergence, nats")
    axes.set_ylabel("measured KL divergence, nats")
    axes.legend(loc="upper left", frameon=False)
    figure.colorbar(image, label="bits per weight of the file")
    save(plt, figure, axes, target)


def correlation(rows: list[dict[str, Any]]) -> float:
    """Of ranks, after Spearman."""
    ranks = [np.argsort(np.argsort([row[key] for row in rows])) for key in ("predicted", "kl")]
    return float(np.corrcoef(*ranks)[0, 1])


def logarithmic(scale: Any, set_ticks: Any, limit: Any, values: list[float]) -> None:
    scale("log")
    limit(min(values) / 1.6, 0.05)
    ticks = [tick for tick in TICKS if min(values) / 1.6 < tick <= 0.05]
    set_ticks(ticks, [f"{tick:g}" for tick in ticks])


def pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    return plt


def save(plt: Any, figure: Any, axes: Any, target: Path) -> None:
    axes.minorticks_off()
    axes.grid(color="#dddddd")
    axes.set_axisbelow(True)
    figure.savefig(target, dpi=200, metadata={"Software": None})
    plt.close(figure)


def sizes_table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| bytes of | MiB | itself | squared error alone | relative error alone | fit | refined "
        "| ratio | 99.9 %: itself, fit | maximum: itself, fit |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        itself, fit = row["itself"], row["fit"]
        kinds = ("squared error", "relative error", "fit", "refined")
        cells = [f"{row[kind]['kl']:.5f}" if kind in row else "" for kind in kinds]
        lines.append(
            f"| {row['name']} | {itself['bytes'] / 2**20:.2f} | {itself['kl']:.5f} | "
            f"{' | '.join(cells)} | {fit['kl'] / itself['kl']:.2f} | "
            f"{itself['p99.9']:.3f}, {fit['p99.9']:.3f} | "
            f"{itself['maximum']:.2f}, {fit['maximum']:.2f} |"
        )
    return lines


def cost_table(rows: list[dict[str, Any]]) -> list[str]:
    names = list(rows[0]["kl"]) if rows else []
    lines = [
        f"| groups by | text | chunks | probes | forward tokens | {' | '.join(names)} |",
        "|---|---|---:|---:|---:|" + "---:|" * len(names),
    ]
    for row in rows:
        kls = " | ".join(f"{row['kl'][name]:.5f}" for name in names)
        lines.append(
            f"| {row['detail']} | {row['text']} | {row['chunks']} | {row['probes']} | "
            f"{row['tokens']:,.0f} | {kls} |"
        )
    return lines


def main() -> None:
    results = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for part in ("sizes", "stock"):
        if part in results:
            print("\n".join([*sizes_table(results[part]), ""]))
    if "cost" in results:
        print("\n".join([*cost_table(results["cost"]), ""]))
    if "sizes" in results and "stock" in results:
        draw_sizes(results, Path(sys.argv[2]))
    if "predictions" in results:
        draw_predictions(results, Path(sys.argv[3]))


if __name__ == "__main__":
    main()
