"""Texts cut into chunks, and chunks put together into batches, as llama.cpp's tools do it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.inference.options import RunOptions

__all__ = ["Batch", "Tokens", "batches", "chunks_of"]

Tokens = npt.NDArray[np.int32]


def chunks_of(tokens: Tokens, length: int) -> Tokens:
    """int32 (chunks, length): the tokens cut into chunks; what is left over is dropped."""
    count = len(tokens) // length
    return tokens[: count * length].reshape(count, length)


@dataclass(frozen=True)
class Batch:
    """Tokens that run together: a piece of some chunks, side by side.

    Attributes:
        chunks: which chunks of those given.
        begins: whether these are their first tokens.
        tokens, positions, sequences: int32, one per token, chunk by chunk.
        outputs: bool, whether the token's logits are wanted.
    """

    chunks: range
    begins: bool
    tokens: Tokens
    positions: Tokens
    sequences: Tokens
    outputs: npt.NDArray[np.bool_]

    @property
    def rows(self) -> tuple[Tokens, Tokens]:
        """Of each row of logits, which chunk (from 0, in this batch) and position it is of."""
        return self.sequences[self.outputs], self.positions[self.outputs]


def batches(
    chunks: Tokens | Sequence[Tokens], options: RunOptions, model: _core.Model, *, first_output: int
) -> Iterator[Batch]:
    """The batches that llama-perplexity and llama-imatrix make of chunks.

    A chunk begins with the model's beginning-of-sequence token, if it uses one, in place of its
    first. first_output: from which position on logits are wanted.
    """
    length, step = options.context_length, min(options.batch_size, options.context_length)
    for first in range(0, len(chunks), options.sequences):
        group = range(first, min(first + options.sequences, len(chunks)))
        tokens = np.stack([chunks[index] for index in group])
        if model.adds_bos:
            tokens[:, 0] = model.bos
        for start in range(0, length, step):
            positions = np.arange(start, min(start + step, length), dtype=np.int32)
            shape = (len(group), len(positions))
            everywhere = np.broadcast_to(positions, shape).reshape(-1)
            yield Batch(
                group,
                start == 0,
                tokens[:, positions].reshape(-1),
                everywhere,
                np.repeat(np.arange(len(group), dtype=np.int32), len(positions)),
                everywhere >= first_output,
            )
