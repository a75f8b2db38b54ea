"""Runs two models on the same text and compares what they expect next."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.errors import ModelFileError

__all__ = ["Agreement", "compare"]


@dataclass(frozen=True)
class Agreement:
    """How alike the next-token probabilities of two models are.

    Attributes:
        tokens: how many positions were compared.
        same_top: share of positions where both find the same token the most likely.
        mean_kl: mean KL divergence of the second model from the first, in nats.
    """

    tokens: int
    same_top: float
    mean_kl: float


def compare(
    reference: str | os.PathLike[str], other: str | os.PathLike[str], text: str
) -> Agreement:
    """Run both models over ``text`` with libllama. Raises ModelFileError if one does not run."""
    p, q = (_log_probabilities(path, text) for path in (reference, other))
    kl = (np.exp(p) * (p - q)).sum(axis=1)
    same = p.argmax(axis=1) == q.argmax(axis=1)
    return Agreement(len(p), float(same.mean()), float(kl.mean()))


def _log_probabilities(path: str | os.PathLike[str], text: str) -> npt.NDArray[np.float64]:
    """float64 (tokens, vocabulary)."""
    try:
        model = _core.Model(os.fsencode(path))
        tokens = model.tokenize(text.encode())
        context = _core.Context(model, context_length=max(len(tokens), 1))
        places = np.arange(len(tokens), dtype=np.int32)
        context.decode(tokens, places, np.zeros_like(places), np.ones(len(tokens), bool))
        logits = context.logits().astype(np.float64)
    except _core.ModelError as error:
        raise ModelFileError(f"{os.fspath(path)}: {error}.", "is the file complete?") from None
    logits -= logits.max(axis=1, keepdims=True)
    result: npt.NDArray[np.float64] = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return result
