"""Mweights/s per type on one thread: every instruction set's kernel against ggml's function."""

from __future__ import annotations

from typing import Any

import apex_reference
import numpy as np
import pytest

from apex import _core

COLUMNS = 2048
TYPES = [
    *("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "IQ4_XS", "IQ4_NL", "IQ3_S", "IQ3_XXS"),
    *("IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4"),
]
NEEDS_IMPORTANCE = {facts.name for facts in _core.tensor_types() if facts.needs_importance}
CASES = [
    (name, kind)
    for name in TYPES
    for kind in ("plain", "weighted")
    if kind == "weighted" or name not in NEEDS_IMPORTANCE
]

RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.standard_normal((32, COLUMNS)).astype(np.float32)
IMPORTANCE = RANDOM.lognormal(size=COLUMNS).astype(np.float32)


@pytest.mark.parametrize("who", ["ggml", *_core.available_isas()])
@pytest.mark.parametrize(("type_name", "kind"), CASES)
def bench_type(benchmark: Any, type_name: str, kind: str, who: str) -> None:
    weight = IMPORTANCE if kind == "weighted" else None

    def ggml() -> Any:
        return apex_reference.quantize_with_ggml(WEIGHTS, type_name, weight)

    def kernel() -> Any:
        return apex_reference.quantize_with_kernel(WEIGHTS, type_name, weight, who)

    measured = ggml if who == "ggml" else kernel
    assert np.array_equal(measured(), ggml())
    benchmark.group = f"{type_name} {kind}"
    benchmark.extra_info.update(weights=WEIGHTS.size, who=who, type=type_name, kind=kind)
    benchmark.pedantic(measured, rounds=5, warmup_rounds=1)
