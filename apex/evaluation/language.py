"""Perplexity, divergence from a reference, agreement of the MTP head: one pass over a text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.errors import RunError, UsageError
from apex.evaluation.base_file import BaseFile, BaseFileWriter
from apex.evaluation.statistics import (
    MIN_POSITIONS,
    Divergence,
    Measured,
    Perplexity,
    divergence_of,
    perplexity_of,
    share,
)
from apex.inference import (
    Batch,
    RunOptions,
    Tokens,
    batches,
    chunks_of,
    load_model,
    make_context,
    running,
)
from apex.sources import ModelFile

__all__ = ["LanguageRun", "TextPass", "text_chunks"]

Rows = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint16]
# Of each position: -ln p(token) and the most likely token.
Scores = tuple[npt.NDArray[np.float64], Tokens]
Compared = tuple[Scores, dict[str, npt.NDArray[Any]]]


class LanguageRun:
    """One model in a pass over a text, and what it has scored so far."""

    def __init__(self, file: ModelFile, options: RunOptions, *, mtp: bool) -> None:
        self.file, self.model = load_model(file, mtp=mtp, gpu_layers=options.gpu_layers)
        self.options = options
        self._mtp = mtp and self.model.mtp_layers > 0
        self._trunk: _core.Context | None = None
        self._head: _core.Context | None = None
        self._scores = _Sum()
        self._columns: list[dict[str, npt.NDArray[Any]]] = []
        self._kl = _Sum()
        self._agreements = 0
        self._head_scores = _Sum()
        self.chunks_done = 0

    def open(self) -> None:
        """Make the contexts. Raises RunError."""
        self._trunk = make_context(self.file, self.model, self.options)
        if self._mtp:
            with running(self.file.path):
                self._trunk.keep_hidden_states()
            self._head = make_context(self.file, self.model, self.options, mtp=True)

    def close(self) -> None:
        """Give the contexts' memory back; what was scored stays."""
        self._trunk = self._head = None

    @property
    def trunk(self) -> _core.Context:
        """The context of an open run."""
        assert self._trunk is not None
        return self._trunk

    def decode(self, batch: Batch) -> None:
        """Run a batch."""
        with running(self.file.path):
            if batch.begins:
                self.trunk.clear()
            self.trunk.decode(batch.tokens, batch.positions, batch.sequences, batch.outputs)

    def score(self, rows: Rows, next_tokens: Tokens) -> Scores:
        """What the model makes of the tokens that follow the rows of the last batch."""
        return self.trunk.score(rows, next_tokens, self.options.threads)

    def diverge(self, rows: Rows, next_tokens: Tokens, codes: Codes) -> Compared:
        """The same, and the statistics against rows of a base file."""
        return self.trunk.diverge(rows, next_tokens, codes, self.options.threads)

    def take(self, scores: Scores, columns: dict[str, npt.NDArray[Any]] | None = None) -> None:
        """Add to the perplexity, and to the divergence."""
        self._scores.add(scores[0])
        if columns is not None:
            self._columns.append(columns)
            self._kl.add(columns["kl"])

    def run_mtp(self, batch: Batch, rows: Rows, next_tokens: Tokens, trunk_top: Tokens) -> None:
        """Run the MTP head over a batch that the trunk has just run, and compare the two.

        trunk_top: the tokens that the trunk finds the most likely after ``rows``.
        """
        if self._head is None:
            return
        with running(self.file.path):
            if batch.begins:
                self._head.clear()
            self._head.decode_mtp(
                batch.tokens, batch.positions, batch.sequences, batch.outputs, self.trunk
            )
        if len(rows):
            scores, top = self._head.score(rows, next_tokens, self.options.threads)
            self._agreements += int((top == trunk_top).sum())
            self._head_scores.add(scores)

    @property
    def estimate(self) -> str:
        """The results so far, in words, from sums alone; empty before the first chunk."""
        parts = []
        if self._scores.count:
            parts.append(f"PPL {math.exp(self._scores.mean):.3f}")
        if self._kl.count >= MIN_POSITIONS:
            parts.append(f"KL {self._kl.mean:.5f}")
        return ", ".join(parts)

    # What follows looks at every position so far; once, when the pass has ended.

    @property
    def perplexity(self) -> Perplexity | None:
        """None before the first chunk."""
        if not self._scores.count:
            return None
        return perplexity_of(self._scores.values, self.chunks_done)

    @property
    def divergence(self) -> Divergence | None:
        """None before there are enough positions."""
        if not self._columns:
            return None
        names = self._columns[0]
        return divergence_of(
            {name: np.concatenate([part[name] for part in self._columns]) for name in names}
        )

    @property
    def mtp_agreement(self) -> Measured | None:
        """How often the MTP head finds the same next token the most likely as the trunk."""
        count = self._head_scores.count
        return share(self._agreements, count) if count else None

    @property
    def mtp_perplexity(self) -> Perplexity | None:
        """The head's own perplexity."""
        if not self._head_scores.count:
            return None
        return perplexity_of(self._head_scores.values, self.chunks_done)


class _Sum:
    """Values that come in parts: their sum at any time, and all of them at the end."""

    def __init__(self) -> None:
        self._parts: list[npt.NDArray[np.float64]] = []
        self.count = 0
        self._total = 0.0

    def add(self, values: npt.NDArray[np.float64]) -> None:
        self._parts.append(values)
        self.count += len(values)
        self._total += float(values.sum())

    @property
    def mean(self) -> float:
        return self._total / self.count

    @property
    def values(self) -> npt.NDArray[np.float64]:
        return np.concatenate(self._parts)


def text_chunks(run: LanguageRun, text: bytes, limit: int | None) -> Tokens:
    """A text cut into chunks by a model's vocabulary. Raises UsageError for too little text."""
    length = run.options.context_length
    with running(run.file.path):
        tokens = run.model.tokenize(text)
    if len(tokens) < 2 * length:
        raise UsageError(
            f"The text has {len(tokens)} tokens, and a context of {length} needs {2 * length}.",
            "give more text, or a smaller --ctx-size",
        )
    chunks = chunks_of(tokens, length)
    return chunks if limit is None else chunks[:limit]


class TextPass:
    """Models that go through a text together, chunk by chunk.

    With a reference, an open model or a base file, the others are compared with it as they go: no
    more of the logits is kept than libllama holds of the batch at work.
    """

    def __init__(
        self,
        runs: Sequence[LanguageRun],
        chunks: Tokens,
        *,
        reference: LanguageRun | None = None,
        base: BaseFile | None = None,
        write_base: Path | None = None,
    ) -> None:
        self.runs = runs
        self.chunks = chunks
        self.reference = reference
        self.base = base
        self.write_base = write_base
        self._everyone = [*([reference] if reference else []), *runs]
        self._leader = self._everyone[0]
        for run in self._everyone[1:]:
            _check_vocabularies(self._leader, run)
        if base is not None and self._leader.model.vocabulary_size != base.vocabulary:
            raise RunError(
                f"{base.path} was made with a vocabulary of {base.vocabulary} tokens, and "
                f"{self._leader.file.path} has {self._leader.model.vocabulary_size}.",
                "make the base file with a model of the same vocabulary",
            )

    def go(self) -> Iterator[int]:
        """Run; yields after every group how many chunks are done. Raises RunError."""
        options = self._leader.options
        with ExitStack() as stack:
            writer = None
            if self.write_base is not None:
                vocabulary = self._leader.model.vocabulary_size
                writer = stack.enter_context(
                    BaseFileWriter(self.write_base, vocabulary, self.chunks)
                )
            for run in self._everyone:
                stack.callback(run.close)
                run.open()
            first = options.context_length // 2
            for batch in batches(self.chunks, options, self._leader.model, first_output=first):
                self._run_batch(batch, writer)
                if batch.positions[-1] == options.context_length - 1:
                    for run in self._everyone:
                        run.chunks_done = batch.chunks.stop
                    yield batch.chunks.stop
            if writer is not None:
                writer.commit()

    def _run_batch(self, batch: Batch, writer: BaseFileWriter | None) -> None:
        chunk, position = batch.rows
        # The last position of a chunk has nothing to predict.
        scored = position < self.chunks.shape[1] - 1
        rows = np.flatnonzero(scored)
        which, where = chunk[scored] + batch.chunks.start, position[scored]
        next_tokens = self.chunks[which, where + 1]
        for run in self._everyone:
            run.decode(batch)
        tops = [np.empty(0, np.int32)] * len(self._everyone)
        if len(rows):
            compared = self._compare(rows, which, where, next_tokens, writer)
            for run, (scores, columns) in zip(self._everyone, compared, strict=True):
                run.take(scores, columns)
            tops = [top for (_, top), _ in compared]
        for run, top in zip(self._everyone, tops, strict=True):
            run.run_mtp(batch, rows, next_tokens, top)

    def _compare(
        self,
        rows: Rows,
        which: Rows,
        where: Tokens,
        next_tokens: Tokens,
        writer: BaseFileWriter | None,
    ) -> list[tuple[Scores, dict[str, npt.NDArray[Any]] | None]]:
        """Of the reference, if there is one, and each run: scores, and what tells them apart.

        Every row of logits is read once. which, where: of each row, its chunk and position.
        """
        if self.reference is not None:
            own, others, codes = self.reference.trunk.compare(
                rows,
                next_tokens,
                [run.trunk for run in self.runs],
                encode=writer is not None,
                threads=self._leader.options.threads,
            )
            if writer is not None and codes is not None:
                writer.write(codes)
            return [(own, None), *others]
        if self.base is not None:
            codes = self.base.codes[which, where - self.chunks.shape[1] // 2]
            return [run.diverge(rows, next_tokens, codes) for run in self.runs]
        return [(run.score(rows, next_tokens), None) for run in self.runs]


def _check_vocabularies(first: LanguageRun, second: LanguageRun) -> None:
    token = first.model.first_difference(second.model)
    if token >= 0:
        raise RunError(
            f"{first.file.path} and {second.file.path} have different vocabularies, from token "
            f"{token} on.",
            "compare a quantized model with the model that it was made of",
        )
