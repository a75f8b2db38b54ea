"""What ``apex fit --curve`` draws, with invented numbers for models of two shapes."""

from __future__ import annotations

import itertools
import math
import random
from bisect import bisect_right
from typing import Any

# Bits per weight, and how far off the weights are: each bit less is about four times the error.
TYPES = {
    **{"Q8_0": 8.5, "Q6_K": 6.5625, "Q5_K": 5.5, "Q4_K": 4.5, "IQ4_XS": 4.25},
    **{"Q3_K": 3.4375, "IQ3_XXS": 3.0625, "Q2_K": 2.625, "IQ2_XXS": 2.0625, "IQ1_S": 1.5625},
}
_FIXED_BYTES = 6_123_456
# Kind, names of its matrices, weights of each for a width of one, sensitivity, in which layers.
_KINDS = (
    ("gate and up experts", ("ffn_gate_exps", "ffn_up_exps"), 64.0, 1.0, "all"),
    ("down experts", ("ffn_down_exps",), 64.0, 1.6, "all"),
    ("shared experts", ("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"), 0.25, 0.1, "all"),
    ("query and key", ("attn_q", "attn_k"), 1.0, 0.3, "fourth"),
    ("value", ("attn_v",), 0.25, 0.4, "fourth"),
    ("attention output", ("attn_output",), 1.0, 0.3, "fourth"),
    ("linear attention", ("attn_qkv", "attn_gate"), 2.0, 0.5, "other"),
    ("linear attention output", ("ssm_out",), 1.0, 0.4, "other"),
    ("small projections", ("ssm_alpha", "ssm_beta"), 0.02, 0.05, "other"),
)


def frontier(
    *, layers: int = 12, width: int = 512, name: str = "small-hybrid-moe", seed: int = 1
) -> dict[str, Any]:
    """A frontier: from the smallest file on, always the change that gains the most per byte."""
    chance = random.Random(seed)
    tensors, costs = _tensors(layers, width, chance)
    best = [_ladder(tensor["bytes"], cost) for tensor, cost in zip(tensors, costs, strict=True)]
    chosen = [ladder[0] for ladder in best]
    size = _FIXED_BYTES + sum(t["bytes"][c] for t, c in zip(tensors, chosen, strict=True))
    kl = sum(cost[c] for cost, c in zip(costs, chosen, strict=True))
    start = {"bytes": size, "kl": kl, "types": list(chosen)}
    changes = []
    for number, ladder in enumerate(best):
        sizes, cost = tensors[number]["bytes"], costs[number]
        for one, next_one in itertools.pairwise(ladder):
            more, gain = sizes[next_one] - sizes[one], cost[one] - cost[next_one]
            changes.append((-gain / more, number, next_one, more, gain))
    steps: list[list[Any]] = []
    for _, number, type_number, more, gain in sorted(changes):
        size, kl = size + more, max(kl - gain, 1e-7)
        steps.append([number, type_number, size, kl])
    weights = sum(tensor["weights"] for tensor in tensors) + _FIXED_BYTES // 4
    return {
        "format": "apex-frontier",
        "version": 1,
        "model": {
            **{"name": name, "architecture": "qwen35moe", "layers": layers},
            **{"weights": weights, "source_bytes": 2 * weights},
        },
        "fixed_bytes": _FIXED_BYTES,
        "types": list(TYPES),
        "tensors": tensors,
        "start": start,
        "steps": steps,
        "knees": [len(steps) // 4, len(steps) // 2],
        **_marks(weights, start, steps),
    }


def _tensors(
    layers: int, width: int, chance: random.Random
) -> tuple[list[dict[str, Any]], list[list[float]]]:
    """Tensors, and what each costs as each type."""
    entries: list[tuple[str, int | None, str, float, float]] = [
        ("token_embd.weight", None, "embedding", 60.0, 0.3)
    ]
    for layer in range(layers):
        where = "fourth" if layer % 4 == 3 else "other"
        for kind, names, scale, cost, there in _KINDS:
            if there in ("all", where):
                edge = 3.0 if layer in (0, layers - 1) else 1.0
                entries += [
                    (f"blk.{layer}.{name}.weight", layer, kind, scale, cost * edge)
                    for name in names
                ]
    entries.append(("output.weight", None, "output", 60.0, 1.0))
    tensors, costs = [], []
    for name, layer, kind, scale, cost in entries:
        weights = max(int(scale * width * width) // 256, 1) * 256
        is_small = kind == "small projections"  # their rows fit no super-block
        tensors.append(
            {
                **{"name": name, "layer": layer, "kind": kind, "weights": weights},
                "bytes": [
                    None if is_small and bits != 8.5 else int(weights * bits / 8)
                    for bits in TYPES.values()
                ],
            }
        )
        cost *= math.exp(chance.gauss(0, 0.8)) / layers
        costs.append([cost * 4 ** (0.5 - bits) for bits in TYPES.values()])
    return tensors, costs


def _ladder(sizes: list[int | None], cost: list[float]) -> list[int]:
    """The types that a tensor goes through: sizes grow, and what a byte gains falls."""
    ladder: list[int] = []
    for number in sorted((n for n, s in enumerate(sizes) if s is not None), key=lambda n: sizes[n]):  # type: ignore[arg-type, return-value]
        while len(ladder) > 1 and _slope(sizes, cost, ladder[-2], ladder[-1]) <= _slope(
            sizes, cost, ladder[-1], number
        ):
            ladder.pop()
        ladder.append(number)
    return ladder


def _slope(sizes: list[Any], cost: list[float], one: int, other: int) -> float:
    return (cost[one] - cost[other]) / (sizes[other] - sizes[one])


def _marks(weights: int, start: dict[str, Any], steps: list[list[Any]]) -> dict[str, Any]:
    """Tiers and file types at two to three times the frontier's KL, some close to each other."""
    sizes = [start["bytes"], *(step[2] for step in steps)]
    kls = [start["kl"], *(step[3] for step in steps)]
    marks = [
        {
            **{"name": name, "kind": kind, "bytes": size},
            "kl": kls[max(bisect_right(sizes, size) - 1, 0)] * factor,
        }
        for name, kind, bits, factor in (
            *(("nano", "tier", 2.75, 3.2), ("mini", "tier", 3.35, 3.0)),
            *(("i-compact", "tier", 4.05, 2.6), ("compact", "tier", 4.1, 3.0)),
            *(("i-quality", "tier", 5.3, 2.1), ("quality", "tier", 5.3, 2.4)),
            *(("i-balanced", "tier", 6.1, 2.0), ("balanced", "tier", 6.1, 2.3)),
            *(("IQ2_M", "file type", 2.9, 3.4), ("IQ3_XXS", "file type", 3.2, 2.5)),
            *(("Q3_K_M", "file type", 3.95, 3.1), ("IQ4_XS", "file type", 4.3, 2.2)),
            *(("Q4_K_S", "file type", 4.6, 2.3), ("Q4_K_M", "file type", 4.9, 2.0)),
            *(("Q5_K_M", "file type", 5.7, 1.8), ("Q6_K", "file type", 6.6, 1.7)),
        )
        for size in (int(weights * bits / 8),)
    ]
    measured = [
        {**{"name": m["name"], "bytes": m["bytes"]}, "kl": 1.15 * m["kl"], "error": 0.06 * m["kl"]}
        for m in marks
        if m["name"] in ("i-compact", "i-quality", "mini")
    ]
    return {"marks": marks, "measured": measured}
