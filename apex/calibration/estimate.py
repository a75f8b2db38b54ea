"""How long a calibration will take."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from apex import _core
from apex.inference import RunOptions, Tokens, make_context, running
from apex.sources import ModelFile

__all__ = ["estimated_seconds"]

# For fewer chunks, two micro-batches more would be too much of the whole.
_FEWEST_CHUNKS = 64
# Squares are summed, and there may be a head to run.
_COLLECTING = 1.1


def estimated_seconds(
    file: ModelFile, model: _core.Model, chunks: Tokens, run: RunOptions
) -> float | None:
    """How long these chunks will take, from a micro-batch of the first; None for a few chunks.

    It is run twice and forgotten: the first time brings the weights into memory. Raises RunError.
    """
    if len(chunks) < _FEWEST_CHUNKS:
        return None
    tokens = chunks[0][: run.micro_batch_size]
    positions = np.arange(len(tokens), dtype=np.int32)
    outputs = positions == len(tokens) - 1
    context = make_context(file, model, replace(run, batch_size=len(tokens)))
    seconds = 0.0
    with running(file.path):
        for _ in range(2):
            context.clear()
            begin = time.monotonic()
            context.decode(tokens, positions, np.zeros_like(positions), outputs)
            seconds = time.monotonic() - begin
    return _COLLECTING * seconds / len(tokens) * chunks.size
