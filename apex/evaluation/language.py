"""Perplexity, divergence from a reference, agreement of the MTP head: one pass over a text."""

from __future__ import annotations

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


class LanguageRun:
    """One model in a pass over a text, and what it has scored so far."""

    def __init__(self, path: Path, options: RunOptions, *, mtp: bool) -> None:
        self.file: ModelFile
        self.file, self.model = load_model(path, mtp=mtp, gpu_layers=options.gpu_layers)
        self.options = options
        self._mtp = mtp and self.model.mtp_layers > 0
        self._trunk: _core.Context | None = None
        self._head: _core.Context | None = None
        self._scores: list[npt.NDArray[np.float64]] = []
        self._columns: list[dict[str, npt.NDArray[Any]]] = []
        self._agreements = 0
        self._head_scores: list[npt.NDArray[np.float64]] = []
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

    def score(self, rows: Rows, next_tokens: Tokens) -> None:
        """Add to the perplexity."""
        threads = self.options.threads
        self._scores.append(self.trunk.negative_log_likelihoods(rows, next_tokens, threads))

    def encode(self, rows: Rows, next_tokens: Tokens) -> npt.NDArray[np.uint16]:
        """Add to the perplexity; returns rows of a base file."""
        codes, scores = self.trunk.encode(rows, next_tokens, self.options.threads)
        self._scores.append(scores)
        result: npt.NDArray[np.uint16] = codes
        return result

    def diverge(
        self, rows: Rows, next_tokens: Tokens, base: _core.Context | npt.NDArray[np.uint16]
    ) -> None:
        """Add to the divergence from a context that has run the same batch, or from codes."""
        threads = self.options.threads
        if isinstance(base, _core.Context):
            columns = self.trunk.diverge(rows, next_tokens, base, rows, threads)
        else:
            columns = self.trunk.diverge_from_codes(rows, next_tokens, base, threads)
        self._columns.append(columns)

    def run_mtp(self, batch: Batch, rows: Rows, next_tokens: Tokens) -> None:
        """Run the MTP head over a batch that the trunk has just run, and compare the two."""
        if self._head is None:
            return
        with running(self.file.path):
            if batch.begins:
                self._head.clear()
            self._head.decode_mtp(
                batch.tokens, batch.positions, batch.sequences, batch.outputs, self.trunk
            )
        if not len(rows):
            return
        threads = self.options.threads
        same = self._head.most_likely(rows, threads) == self.trunk.most_likely(rows, threads)
        self._agreements += int(same.sum())
        self._head_scores.append(self._head.negative_log_likelihoods(rows, next_tokens, threads))

    @property
    def perplexity(self) -> Perplexity | None:
        """So far; None before the first chunk."""
        if not self._scores:
            return None
        return perplexity_of(np.concatenate(self._scores), self.chunks_done)

    @property
    def divergence(self) -> Divergence | None:
        """So far; None before there are enough positions."""
        if not self._columns:
            return None
        names = self._columns[0]
        return divergence_of(
            {name: np.concatenate([part[name] for part in self._columns]) for name in names}
        )

    @property
    def mtp_agreement(self) -> Measured | None:
        """How often the MTP head finds the same next token the most likely as the trunk."""
        count = sum(map(len, self._head_scores))
        return share(self._agreements, count) if count else None

    @property
    def mtp_perplexity(self) -> Perplexity | None:
        """The head's own perplexity."""
        if not self._head_scores:
            return None
        return perplexity_of(np.concatenate(self._head_scores), self.chunks_done)


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
        everyone = [*([reference] if reference else []), *runs]
        self._leader = everyone[0]
        for run in everyone[1:]:
            _check_vocabularies(self._leader, run)
        if base is not None and self._leader.model.vocabulary_size != base.vocabulary:
            raise RunError(
                f"{base.path} was made with a vocabulary of {base.vocabulary} tokens, and "
                f"{self._leader.file.path} has {self._leader.model.vocabulary_size}.",
                "make the base file with a model of the same vocabulary",
            )

    def go(self) -> Iterator[int]:
        """Run; yields after every group how many chunks are done. Raises RunError."""
        everyone = [*([self.reference] if self.reference else []), *self.runs]
        options = self._leader.options
        with ExitStack() as stack:
            writer = None
            if self.write_base is not None:
                vocabulary = self._leader.model.vocabulary_size
                writer = stack.enter_context(
                    BaseFileWriter(self.write_base, vocabulary, self.chunks)
                )
            for run in everyone:
                stack.callback(run.close)
                run.open()
            first = options.context_length // 2
            for batch in batches(self.chunks, options, self._leader.model, first_output=first):
                self._run_batch(batch, writer)
                if batch.positions[-1] == options.context_length - 1:
                    for run in everyone:
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
        reference = self.reference
        if reference is not None:
            reference.decode(batch)
            if writer is not None and len(rows):
                writer.write(reference.encode(rows, next_tokens))
            elif len(rows):
                reference.score(rows, next_tokens)
            reference.run_mtp(batch, rows, next_tokens)
        for run in self.runs:
            run.decode(batch)
            if len(rows):
                run.score(rows, next_tokens)
                if reference is not None:
                    run.diverge(rows, next_tokens, reference.trunk)
                elif self.base is not None:
                    first = self.chunks.shape[1] // 2
                    run.diverge(rows, next_tokens, self.base.codes[which, where - first])
            run.run_mtp(batch, rows, next_tokens)


def _check_vocabularies(first: LanguageRun, second: LanguageRun) -> None:
    token = first.model.first_difference(second.model)
    if token >= 0:
        raise RunError(
            f"{first.file.path} and {second.file.path} have different vocabularies, from token "
            f"{token} on.",
            "compare a quantized model with the model that it was made of",
        )
