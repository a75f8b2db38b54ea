"""Texts that begin alike, run together: what they share is computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.inference import RunOptions, Tokens

__all__ = ["SEQUENCES", "Continuations", "Layout", "groups", "lay_out", "run_batch"]

# Parallel sequences of llama-perplexity's tasks.
SEQUENCES = 4

# Of each token of a batch: itself, its position, the first sequence that it belongs to, whether its
# logits are wanted, and how many sequences it belongs to.
Layout = list[npt.NDArray[Any]]


class Continuations:
    """Texts that begin alike.

    Attributes:
        tokens: of each text, from the beginning.
        prefix: how many tokens they share.
        needed: how many tokens they take in a cache.
    """

    def __init__(
        self, tokens: Iterable[Tokens], *, own: int = 1, prefix: int | None = None
    ) -> None:
        """own: how many tokens every text has to itself; prefix: how many are shared at most."""
        self.tokens = list(tokens)
        shortest = min(map(len, self.tokens))
        same = np.all([part[:shortest] == self.tokens[0][:shortest] for part in self.tokens], 0)
        found = shortest - own if same.all() else int(np.argmin(same))
        self.prefix = found if prefix is None else min(found, prefix)
        self.needed = self.prefix + sum(len(part) - self.prefix for part in self.tokens)


Item = TypeVar("Item", bound=Continuations)


def groups(items: Sequence[Item], length: int, sequences: int) -> Iterator[list[Item]]:
    """Items that run together: as many as fit the tokens and the sequences of a cache."""
    group: list[Item] = []
    used = texts = 0
    for item in items:
        if group and (used + item.needed > length or texts + len(item.tokens) > sequences):
            yield group
            group, used, texts = [], 0, 0
        group.append(item)
        used += item.needed
        texts += len(item.tokens)
    if group:
        yield group


def lay_out(
    group: Sequence[Continuations],
    wanted: Callable[[Tokens, npt.NDArray[np.int64]], npt.NDArray[np.bool_]],
) -> Layout:
    """All of their tokens as one batch; each text has a sequence of its own.

    wanted: of a text and positions of it that are not shared, whether the logits are wanted. Those
    of the last token that is shared always are.
    """
    tokens, positions, firsts, outputs, shared = [], [], [], [], []
    sequence = 0
    for item in group:
        places = np.arange(item.prefix)
        tokens.append(item.tokens[0][: item.prefix])
        positions.append(places)
        firsts.append(np.full(item.prefix, sequence))
        outputs.append(places == item.prefix - 1)
        shared.append(np.full(item.prefix, len(item.tokens)))
        for text in item.tokens:
            rest = np.arange(item.prefix, len(text))
            tokens.append(text[item.prefix :])
            positions.append(rest)
            firsts.append(np.full(len(rest), sequence))
            outputs.append(wanted(text, rest))
            shared.append(np.ones(len(rest), int))
            sequence += 1
    return [np.concatenate(part) for part in (tokens, positions, firsts, outputs, shared)]


def run_batch(context: _core.Context, batch: Layout, options: RunOptions) -> Iterator[range]:
    """Run a batch in an empty cache, in parts that libllama takes.

    After each part, gives which of the batch's rows of logits are now in the context.
    """
    context.clear()
    done = 0
    for begin in range(0, len(batch[0]), options.batch_size):
        part = [values[begin : begin + options.batch_size] for values in batch]
        context.decode(*part)
        count = int(part[3].sum())
        yield range(done, done + count)
        done += count
