"""The chunks of text over which a model is measured, and others that are kept apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.calibration import Text, built_in
from apex.errors import UsageError
from apex.inference import Tokens, chunks_of
from apex.sensitivity.data import TextIdentity

__all__ = ["Chunks", "select_chunks"]


@dataclass(frozen=True)
class Chunks:
    """Tokens to run, from all over the texts.

    Attributes:
        probing: int32 (chunks, length): for measuring.
        apart: int32 (chunks, length): none of these, to judge by what was fitted.
        names: of the texts.
    """

    probing: Tokens
    apart: Tokens
    names: tuple[str, ...]

    def identity(self, count: int) -> TextIdentity:
        """That of a measurement over the first ``count`` chunks for probing."""
        tokens = np.ascontiguousarray(self.probing[:count])
        digest = hashlib.sha256(tokens.tobytes()).hexdigest()
        length = tokens.shape[1]
        return TextIdentity(self.names, digest, length, count, count * (length - length // 2))


def select_chunks(
    model: _core.Model, texts: Sequence[Text], length: int, probing: int, apart: int
) -> Chunks:
    """Choose chunks evenly: of every text by its weight, and from all places of each.

    texts: none for the built-in set. The first chunks are from different texts, so that a part of
    them is diverse too. Which are for probing does not depend on ``apart``; those apart are of what
    is left, and fewer where little is. Raises UsageError where no text has a chunk.
    """
    texts = tuple(texts) or built_in(model)
    parts = [
        chunks_of(model.tokenize(text.content, parse_special=text.parse_special), length)
        for text in texts
    ]
    if not sum(map(len, parts)):
        raise UsageError(
            f"No text has a chunk of {length} tokens.", "give more text, or a smaller --ctx-size"
        )
    weights = [text.weight for text in texts]
    every = [list(range(len(part))) for part in parts]
    run = _chosen(every, weights, probing)
    left = [sorted(set(places).difference(taken)) for places, taken in zip(every, run, strict=True)]
    kept = _chosen(left, weights, apart)
    # The file is for others too, and they have other folders.
    names = tuple(text.name if text.file is None else text.file.name for text in texts)
    return Chunks(_tokens(parts, run, length), _tokens(parts, kept, length), names)


def _chosen(
    places: Sequence[Sequence[int]], weights: Sequence[float], total: int
) -> list[list[int]]:
    """Of each text's places some, evenly."""
    counts = _shares([len(there) for there in places], weights, total)
    return [
        [there[index] for index in _even(len(there), count)]
        for there, count in zip(places, counts, strict=True)
    ]


def _tokens(parts: Sequence[Tokens], places: Sequence[Sequence[int]], length: int) -> Tokens:
    chunks = [parts[text][place] for text, place in _interleaved(places)]
    return np.stack(chunks) if chunks else np.empty((0, length), np.int32)


def _shares(available: Sequence[int], weights: Sequence[float], total: int) -> list[int]:
    """How many chunks of each text: by weight, as far as there are."""
    counts = [0] * len(available)
    for _ in range(min(total, sum(available))):
        open_texts = [index for index, most in enumerate(available) if counts[index] < most]
        chosen = min(open_texts, key=lambda index: (counts[index] + 1) / weights[index])
        counts[chosen] += 1
    return counts


def _even(available: int, count: int) -> npt.NDArray[np.int64]:
    """Indexes of ``count`` chunks from all places."""
    return ((2 * np.arange(count) + 1) * available // (2 * max(count, 1))).astype(np.int64)


def _interleaved(places: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """(text, place) of places in each text, so that every text comes as evenly as it can."""
    ranked = [
        ((2 * number + 1) / (2 * len(there)), text, place)
        for text, there in enumerate(places)
        for number, place in enumerate(there)
    ]
    return [(text, place) for _, text, place in sorted(ranked)]
