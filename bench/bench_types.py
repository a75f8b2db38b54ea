"""Mweights/s per type on one thread: apex, with its checks, against ggml_quantize_chunk."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from apex import _core

COLUMNS = 2048
TYPES = [facts.name for facts in _core.tensor_types() if facts.is_quantized and facts.has_quantizer]
NEEDS_IMPORTANCE = {facts.name for facts in _core.tensor_types() if facts.needs_importance}

RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.standard_normal((32, COLUMNS)).astype(np.float32)
IMPORTANCE = RANDOM.lognormal(size=COLUMNS).astype(np.float32)


@pytest.mark.parametrize("who", ["apex", "ggml"])
@pytest.mark.parametrize("importance", ["plain", "weighted"])
@pytest.mark.parametrize("type_name", TYPES)
def bench_type(benchmark: Any, type_name: str, importance: str, who: str) -> None:
    if importance == "plain" and type_name in NEEDS_IMPORTANCE:
        pytest.skip(f"{type_name} needs an importance")
    weight = IMPORTANCE if importance == "weighted" else None

    def apex() -> Any:
        return _core.quantize(WEIGHTS, type_name, weight, threads=1)

    def ggml() -> Any:
        return _core.quantize_with_ggml(WEIGHTS, type_name, weight)

    assert np.array_equal(apex(), ggml())
    benchmark.group = f"{type_name} {importance}"
    benchmark.extra_info.update(weights=WEIGHTS.size, who=who)
    benchmark.pedantic({"apex": apex, "ggml": ggml}[who], rounds=7, warmup_rounds=1)
