"""Runs a model over texts and collects its importance matrix."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.calibration import documents
from apex.calibration.coverage import Coverage, coverage_of
from apex.calibration.documents import Text
from apex.calibration.matrix import Imatrix
from apex.cpu import cpu_info
from apex.errors import ImatrixError, OutputError, RunError, UsageError
from apex.files import ImportanceMatrix, load_imatrix
from apex.inference import (
    Batch,
    RunOptions,
    Tokens,
    batches,
    chunks_of,
    load_model,
    make_context,
    peak_memory,
    running,
)
from apex.sources import ModelFile

__all__ = ["CalibrationProgress", "CalibrationResult", "CollectOptions", "calibrate", "mixed"]

_NOTE = "apex.calibration"
_STATE = "apex.calibration.state"
_DONE = "apex.calibration.chunks_done"
# Progress of a run that was stopped; beside the output until the run is finished.
CHECKPOINT_SUFFIX = ".checkpoint"


@dataclass(frozen=True)
class CollectOptions:
    """What is collected, and how long.

    Attributes:
        run: how the model is run.
        chunks: at most so many chunks; None for all that the texts have.
        skip_chunks: so many chunks of each text are left out at its start.
        output_matrix: the output matrix too, as llama-imatrix --process-output.
        mtp: the multi-token-prediction heads too, where the model has some.
        until_coverage: stop when this share of all routed experts has seen ``min_tokens`` tokens.
        min_tokens: what an expert must have seen to count as covered.
        save_every: chunks between checkpoints.
    """

    run: RunOptions = field(default_factory=RunOptions)
    chunks: int | None = None
    skip_chunks: int = 0
    output_matrix: bool = False
    mtp: bool = True
    until_coverage: float | None = None
    min_tokens: int = 32
    save_every: int = 32

    def __post_init__(self) -> None:
        if self.until_coverage is not None and not 0 < self.until_coverage <= 1:
            raise UsageError("The coverage to reach lies between 0 and 1.", "as in 0.99")
        if (self.chunks is not None and self.chunks < 1) or self.skip_chunks < 0:
            raise UsageError("There must be at least one chunk.")


@dataclass(frozen=True)
class CalibrationProgress:
    """How far a run is; given to the progress callback after every group of chunks.

    Attributes:
        chunks_done, chunks: of those that may be run.
        tokens_per_second: in this run.
        coverage: of the routed experts so far; None for a model without any.
    """

    chunks_done: int
    chunks: int
    tokens_per_second: float
    coverage: Coverage | None


@dataclass(frozen=True)
class CalibrationResult:
    """What a run collected.

    Attributes:
        path: the file that was written.
        chunks, tokens: how much text was run, resumed parts included.
        seconds: of this run.
        resumed_chunks: how many chunks an earlier run had done.
        coverage: of the routed experts; None for a model without any.
        text_chunks: by text, how many chunks were run.
        entries: how many tensors have data.
        notes: what the user should know.
        peak_memory: bytes, mapped models included.
    """

    path: Path
    chunks: int
    tokens: int
    seconds: float
    resumed_chunks: int
    coverage: Coverage | None
    text_chunks: dict[str, int]
    entries: int
    notes: tuple[str, ...]
    peak_memory: int


def calibrate(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    texts: Sequence[Text] = (),
    *,
    built_in: bool = False,
    options: CollectOptions | None = None,
    continue_from: Sequence[str | os.PathLike[str]] = (),
    legacy: bool = False,
    overwrite: bool = False,
    progress: Callable[[CalibrationProgress], None] | None = None,
) -> CalibrationResult:
    """Run a model over texts and write its importance matrix.

    texts: without any, the built-in diverse set; built_in: that set beside them.
    continue_from: importance matrices to add to.
    legacy: write a .dat instead of a GGUF file.
    A run that was stopped goes on where its last checkpoint, beside the output, left it; the file
    is the same as that of a run that was not.
    Raises ModelFileError, RunError, DataError, ImatrixError, OutputError, UsageError.
    """
    path = Path(output)
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists.", "use --overwrite to replace it, or another name")
    return _Run(
        Path(model),
        path,
        texts,
        options or CollectOptions(),
        continue_from,
        built_in=built_in,
        legacy=legacy,
    ).execute(progress)


class _Run:
    def __init__(
        self,
        model: Path,
        output: Path,
        texts: Sequence[Text],
        options: CollectOptions,
        continue_from: Sequence[str | os.PathLike[str]],
        *,
        built_in: bool,
        legacy: bool,
    ) -> None:
        self.output = output
        self.checkpoint = output.with_name(output.name + CHECKPOINT_SUFFIX)
        self.options = options
        self.legacy = legacy
        self.notes: list[str] = []
        before = [load_imatrix(path) for path in continue_from]
        self.file, self.model, self.has_mtp = self._load(model)
        own = documents.built_in(self.model) if built_in or not texts else ()
        self.texts = (*texts, *own)
        length = options.run.context_length
        tokens = [self._tokenize(text) for text in self.texts]
        self.chunks, self.origins = mixed(
            [chunks_of(part, length) for part in tokens],
            [text.weight for text in self.texts],
            options.chunks,
        )
        if not len(self.chunks):
            raise UsageError(
                f"The text has {sum(map(len, tokens))} tokens, and a chunk takes {length}.",
                "give more text, or a smaller --ctx-size",
            )
        for text, part in zip(self.texts, tokens, strict=True):
            if len(part) < length:
                self.notes.append(f"{text.name} is shorter than a chunk and was left out")
        if length > self.model.context_length:
            self.notes.append(
                f"the model was trained on contexts of {self.model.context_length} tokens"
            )
        self.state = self._fingerprint(before)
        # ggml's threads spin between two parts of a graph, so as many again would stand in the way.
        threads = max(1, (options.run.threads or cpu_info().threads) // 2)
        self.matrix = Imatrix(chunk_size=length, threads=threads)
        self.done = self._resume()
        if not self.done:
            for matrix in before:
                self.matrix.merge(matrix)
            self.matrix.datasets += [
                text.name
                for index, text in enumerate(self.texts)
                if index in set(self.origins.tolist())
            ]
        self.resumed = self.done

    def _load(self, path: Path) -> tuple[ModelFile, _core.Model, bool]:
        """The model, and whether its multi-token-prediction head can be run."""
        layers = self.options.run.gpu_layers
        if self.options.mtp:
            try:
                file, model = load_model(path, mtp=True, gpu_layers=layers)
                return file, model, model.mtp_layers > 0
            except RunError as error:  # of the head alone, or of the whole model
                self.notes.append(_without_head(error))
        file, model = load_model(path, gpu_layers=layers)
        return file, model, False

    def _tokenize(self, text: Text) -> Tokens:
        with running(self.file.path):
            tokens = self.model.tokenize(text.content, parse_special=text.parse_special)
        return tokens[self.options.skip_chunks * self.options.run.context_length :]

    def _fingerprint(self, before: Sequence[ImportanceMatrix]) -> str:
        """Of everything that decides the result: a checkpoint of another run is none of ours."""
        digest = hashlib.sha256()
        for part in self.file.files:
            status = part.stat()
            digest.update(f"{status.st_size} {status.st_mtime_ns};".encode())
        digest.update(repr((self.options.run.to_dict() | {"threads": 0}).items()).encode())
        options = (self.options.output_matrix, self.has_mtp, _core.__version__)
        digest.update(repr(options).encode())
        digest.update(np.ascontiguousarray(self.chunks).tobytes())
        for matrix in before:
            for name, entry in matrix.entries.items():
                digest.update(name.encode() + entry.sums.tobytes() + entry.counts.tobytes())
        return digest.hexdigest()

    def _resume(self) -> int:
        """Take over a checkpoint of this very run; returns how many chunks it has."""
        if not self.checkpoint.exists():
            return 0
        try:
            saved = load_imatrix(self.checkpoint)
        except ImatrixError:
            saved = None
        done = saved.notes.get(_DONE) if saved else None
        if saved is None or saved.notes.get(_STATE) != self.state or not isinstance(done, int):
            self.notes.append(
                f"{self.checkpoint.name} was left by a run with other texts or settings and was "
                "not used"
            )
            return 0
        self.matrix.merge(saved)
        self.notes.append(f"went on after {done} chunks of {self.checkpoint.name}")
        return done

    def execute(self, progress: Callable[[CalibrationProgress], None] | None) -> CalibrationResult:
        begin = time.monotonic()
        saved = self.done
        coverage = self._coverage()
        for done in self._groups():
            self.done = done
            coverage = self._coverage()
            if progress is not None:
                tokens = (self.done - self.resumed) * self.options.run.context_length
                speed = tokens / max(time.monotonic() - begin, 1e-9)
                progress(CalibrationProgress(self.done, len(self.chunks), speed, coverage))
            if self._is_covered(coverage):
                break
            # An interrupted group is half collected: only what was saved before it counts.
            if self.done - saved >= self.options.save_every:
                self._save_checkpoint()
                saved = self.done
        return self._finish(coverage, time.monotonic() - begin)

    def _groups(self) -> Iterator[int]:
        """Run the chunks that are left; yields after each group how many are done."""
        options, collect = self.options.run, self.matrix.accumulator
        path = self.file.path
        with running(path):
            trunk = make_context(
                self.file,
                self.model,
                options,
                collect=collect,
                collect_output=self.options.output_matrix,
            )
            head = self._head() if self.has_mtp else None
            if head is not None:
                trunk.keep_hidden_states()
            for batch in batches(self.chunks[self.done :], options, self.model, first_output=0):
                self._run_batch(batch, trunk, head)
                if batch.positions[-1] == options.context_length - 1:
                    yield self.resumed + batch.chunks.stop

    def _head(self) -> _core.Context | None:
        collect = self.matrix.accumulator
        try:
            return make_context(self.file, self.model, self.options.run, mtp=True, collect=collect)
        except RunError as error:
            self.has_mtp = False
            self.notes.append(_without_head(error))
            return None

    def _run_batch(self, batch: Batch, trunk: _core.Context, head: _core.Context | None) -> None:
        if batch.begins:
            trunk.clear()
        where = (batch.tokens, batch.positions, batch.sequences)
        trunk.decode(*where, batch.outputs)
        if head is None:
            return
        if batch.begins:
            head.clear()
        # Everything must be computed, and that is what asking for an output means.
        if not head.decode_mtp(*where, batch.outputs, trunk) and self.has_mtp:
            self.has_mtp = False
            self.notes.append(_without_head(RunError("libllama does not run it.")))

    def _coverage(self) -> Coverage | None:
        return coverage_of(self.matrix.accumulator.counts(), self.options.min_tokens)

    def _is_covered(self, coverage: Coverage | None) -> bool:
        wanted = self.options.until_coverage
        return wanted is not None and coverage is not None and coverage.share >= wanted

    def _save_checkpoint(self) -> None:
        notes: dict[str, Any] = {_STATE: self.state, _DONE: self.done}
        self.matrix.save(self.checkpoint, overwrite=True, notes=notes)

    def _finish(self, coverage: Coverage | None, seconds: float) -> CalibrationResult:
        wanted = self.options.until_coverage
        if wanted is not None and coverage is not None and not self._is_covered(coverage):
            self.notes.append(
                f"the texts ended at a coverage of {coverage.share:.4f}, below {wanted}"
            )
        counts = np.bincount(self.origins[: self.done], minlength=len(self.texts))
        text_chunks = {
            text.name: int(count) for text, count in zip(self.texts, counts, strict=True)
        }
        length = self.options.run.context_length
        note = {
            "model": self.file.path.name,
            "chunks": self.done,
            "chunk_size": length,
            "texts": text_chunks,
            "mtp": self.has_mtp,
            "apex": _core.__version__,
            "llama.cpp": _core.llama_version,
        }
        self.matrix.save(
            self.output,
            legacy=self.legacy,
            overwrite=True,
            notes={_NOTE: json.dumps(note), **_model_note(self.file)},
        )
        with suppress(FileNotFoundError):
            self.checkpoint.unlink()
        return CalibrationResult(
            self.output,
            self.done,
            self.done * length,
            seconds,
            self.resumed,
            coverage,
            text_chunks,
            len(self.matrix.accumulator.counts()),
            tuple(self.notes),
            peak_memory(),
        )


def _without_head(error: RunError) -> str:
    return f"the multi-token-prediction head gets no data: {error.message.rstrip('.')}"


def mixed(
    parts: Sequence[Tokens], weights: Sequence[float], limit: int | None
) -> tuple[Tokens, npt.NDArray[np.int64]]:
    """Interleave the chunks of several texts by their weights.

    Every text keeps its order. The next chunk always comes from the text that is furthest behind
    its share; a text that has run out is passed over. Returns the chunks, and of which text each
    is.
    """
    left = [len(part) for part in parts]
    total = min(sum(left), limit if limit is not None else sum(left))
    taken = [0] * len(parts)
    origins = []
    for _ in range(total):
        candidates = [index for index, part in enumerate(parts) if taken[index] < len(part)]
        chosen = min(candidates, key=lambda index: (taken[index] + 1) / weights[index])
        origins.append(chosen)
        taken[chosen] += 1
    which = np.array(origins, np.int64)
    if not origins:
        return np.empty((0, 0), np.int32), which
    places = [0] * len(parts)
    rows = []
    for index in origins:
        rows.append(parts[index][places[index]])
        places[index] += 1
    return np.stack(rows), which


def _model_note(file: ModelFile) -> dict[str, str]:
    """Which model an importance matrix was made of: a digest of its tensor table."""
    return {"apex.calibration.model": model_digest(file)}


def model_digest(file: ModelFile) -> str:
    """A digest of the names, shapes and types of a model's tensors, and of its files' sizes."""
    digest = hashlib.sha256()
    for tensor in file.tensors:
        digest.update(f"{tensor.name} {tensor.shape} {tensor.type};".encode())
    for part in file.files:
        digest.update(f"{part.stat().st_size};".encode())
    return digest.hexdigest()
