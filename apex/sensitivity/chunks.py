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

    texts: none for the built-in set. The first chunks of ``probing`` are from different texts, so
    that a part of them is diverse too. Where the texts are short there are fewer of both, in the
    same proportion, but at least one for probing. Raises UsageError where there is not even that.
    """
    texts = tuple(texts) or built_in(model)
    parts = [
        chunks_of(model.tokenize(text.content, parse_special=text.parse_special), length)
        for text in texts
    ]
    total = sum(map(len, parts))
    if not total:
        raise UsageError(
            f"No text has a chunk of {length} tokens.", "give more text, or a smaller --ctx-size"
        )
    weights = [text.weight for text in texts]
    # Those apart come from between those for probing, so both are taken from one even choice.
    taken = min(total, probing + apart)
    for_probing = max(1, round(taken * probing / (probing + apart)))
    counts = _shares([len(part) for part in parts], weights, taken)
    chosen = [part[_even(len(part), count)] for part, count in zip(parts, counts, strict=True)]
    is_probing = _even_mask(taken, for_probing)
    order = _interleaved([range(count) for count in counts])
    probing_places: list[list[int]] = [[] for _ in texts]
    for (text, place), wanted in zip(order, is_probing, strict=True):
        if wanted:
            probing_places[text].append(place)
    run = [chosen[text][place] for text, place in _interleaved(probing_places)]
    kept = [chosen[order[index][0]][order[index][1]] for index in np.flatnonzero(~is_probing)]
    none = np.empty((0, length), np.int32)
    names = tuple(text.name for text in texts)
    return Chunks(np.stack(run), np.stack(kept) if kept else none, names)


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


def _even_mask(available: int, count: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros(available, np.bool_)
    mask[_even(available, count)] = True
    return mask


def _interleaved(places: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """(text, place) of places in each text, so that every text comes as evenly as it can."""
    ranked = [
        ((2 * number + 1) / (2 * len(there)), text, place)
        for text, there in enumerate(places)
        for number, place in enumerate(there)
    ]
    return [(text, place) for _, text, place in sorted(ranked)]
