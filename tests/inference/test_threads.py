"""The number of threads changes nothing but the speed, also where apex chooses it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from support.language import next_logits

from apex import _core


def test_logits_do_not_depend_on_threads(demo_model: Path) -> None:
    """0 takes the processors that are idle when a batch begins, so their number may change."""
    model = _core.Model(str(demo_model))
    tokens = np.arange(48, dtype=np.int32)
    expected = next_logits(model, tokens)
    sequences, outputs = np.zeros_like(tokens), np.ones(16, bool)
    for threads in (1, 2, 3, 0):
        context = _core.Context(model, context_length=512, batch_size=512, threads=threads)
        for _ in range(2):
            context.clear()
            parts = []
            for part in range(0, 48, 16):
                where = np.arange(part, part + 16, dtype=np.int32)
                context.decode(tokens[where], where, sequences[where], outputs)
                parts.append(context.logits())
            assert np.abs(np.concatenate(parts) - expected).max() < 0.05, threads
            again = _core.Context(model, context_length=512, batch_size=512, threads=1)
            again.decode(tokens[:16], tokens[:16], sequences[:16], outputs)
            assert np.array_equal(again.logits(), parts[0]), threads
