"""How fast is compensated rounding? On one thread, beside the quantizer that it follows.

python bench/rounding_speed.py OUTPUT.json

By type and number of columns: millions of weights a second of both, and what the products of a tile
with H and its factors come to, against the speed of numpy's matrix product in the same run. Times
are those of the thread, the best of three, so that other programs matter little. What is timed has
first been found to lower the objective of all rows together.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy reads it

import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from apex import _core

TYPES = (
    *("Q8_0", "Q6_K", "Q5_K", "Q4_K", "IQ4_XS", "Q3_K", "IQ3_S", "IQ3_XXS", "Q2_K", "IQ2_S"),
    *("IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"),
)
COLUMNS = (256, 512, 2048)
# Passes over H for every row: at the start, half a one to feed, two sweeps, one to unshrink.
PASSES = 4.5


def seconds(body: Callable[[], object]) -> float:
    best = np.inf
    for _ in range(3):
        begin = time.thread_time()
        body()
        best = min(best, time.thread_time() - begin)
    return float(best)


def measure(columns: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(columns)
    mixing = random.standard_normal((columns, columns)) / columns**0.5
    inputs = (random.standard_normal((2 * columns, columns)) @ mixing).astype(np.float32)
    square = inputs.T @ inputs
    sums, rows = square[np.tril_indices(columns)].copy(), float(len(inputs))
    importance = (np.diag(square) / rows).astype(np.float32)

    def objective() -> _core.Objective:
        return _core.Objective(columns, sums, rows, sums, rows, threads=1)

    preparing, known = seconds(objective), objective()
    weights = random.standard_normal((2**17 // columns, columns)).astype(np.float32) / 50
    found = []
    for name in TYPES:
        start = _core.quantize(weights, name, importance, threads=1)
        made = start.copy()
        _core.compensate(weights, name, known, made, threads=1)
        assert cost(made, name, weights, known) < cost(start, name, weights, known)
        one = seconds(lambda kind=name: _core.quantize(weights, kind, importance, threads=1))
        two = seconds(
            lambda kind=name, start=start: _core.compensate(
                weights, kind, known, start.copy(), threads=1
            )
        )
        found.append(
            {
                "type": name,
                "columns": columns,
                "quantize": weights.size / one / 1e6,
                "compensate": weights.size / two / 1e6,
                "gflops": 2 * PASSES * columns * weights.size / two / 1e9,
                "objective_seconds": preparing,
            }
        )
        print(json.dumps(found[-1]), flush=True)
    return found


def cost(made: np.ndarray, name: str, weights: np.ndarray, known: _core.Objective) -> float:
    error = _core.dequantize(made, name, shape=weights.shape) - weights
    return float(np.einsum("ri,ij,rj->", error, known.moments, error, optimize=True))


def main() -> None:
    square = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32)
    product = 2 * 1024**3 / seconds(lambda: square @ square) / 1e9
    found = [row for columns in COLUMNS for row in measure(columns)]
    result = {
        "machine": platform.processor() or platform.machine(),
        "isa": _core.active_isa(),
        "numpy_gflops": product,
        "rows": found,
    }
    Path(sys.argv[1]).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
