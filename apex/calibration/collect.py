"""Runs a model over texts and collects its importance matrix."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.calibration import documents
from apex.calibration.checkpoint import Checkpoint, checkpoint_path
from apex.calibration.coverage import Coverage, coverage_of
from apex.calibration.documents import Text, mixed
from apex.calibration.estimate import estimated_seconds
from apex.calibration.identity import model_digest
from apex.calibration.matrix import ImportanceAccumulator
from apex.calibration.options import CalibrationProgress, CalibrationResult, CollectOptions
from apex.cpu import cpu_info
from apex.errors import OutputError, RunError, UsageError
from apex.files import ImportanceMatrix, check_output, load_imatrix
from apex.inference import (
    Batch,
    Tokens,
    batches,
    chunks_of,
    load_model,
    make_context,
    peak_memory,
    running,
)
from apex.sources import ModelFile, open_model

__all__ = ["NOTES", "calibrate"]

# Keys of what an importance matrix says about itself, beside what llama-imatrix writes.
NOTES = {
    "what": "apex.calibration",
    "model": "apex.calibration.model",
    "extent": "apex.calibration.extent",
    "automatic": "apex.calibration.automatic",
}

Report = Callable[[CalibrationProgress], None]


def calibrate(
    model: str | os.PathLike[str] | ModelFile,
    output: str | os.PathLike[str],
    texts: Sequence[Text] = (),
    *,
    built_in: bool = False,
    options: CollectOptions | None = None,
    continue_from: Sequence[str | os.PathLike[str]] = (),
    legacy: bool = False,
    overwrite: bool = False,
    notes: Mapping[str, str | int] | None = None,
    progress: Report | None = None,
) -> CalibrationResult:
    """Run a model over texts and write its importance matrix.

    texts: without any, the built-in diverse set; built_in: that set beside them.
    continue_from: importance matrices to add to.
    legacy: write a .dat instead of a GGUF file.
    notes: further metadata for the GGUF file.
    progress: see CalibrationProgress.

    A run that was stopped, by whatever exception, leaves a checkpoint of all whole groups of chunks
    beside the output. The same call goes on from there, and the file that it writes is the same as
    that of a run that was not stopped.
    Raises ModelFileError, RunError, DataError, ImatrixError, OutputError, UsageError.
    """
    file = model if isinstance(model, ModelFile) else open_model(model)
    path = Path(output)
    read = [*file.files, *(text.file for text in texts if text.file), *continue_from]
    check_output([path], read, overwrite=overwrite)
    check_output([checkpoint_path(path)], read, overwrite=True)
    run = _Run(file, path, texts, options or CollectOptions(), continue_from, built_in=built_in)
    return run.execute(progress, legacy=legacy, notes=notes or {})


class _Run:
    def __init__(
        self,
        file: ModelFile,
        output: Path,
        texts: Sequence[Text],
        options: CollectOptions,
        continue_from: Sequence[str | os.PathLike[str]],
        *,
        built_in: bool,
    ) -> None:
        self.file = file
        self.output = output
        self.options = options
        self.notes: list[str] = []
        before = [load_imatrix(path) for path in continue_from]
        self.model, self.has_mtp = self._load()
        self.digest = model_digest(file)
        own = documents.built_in(self.model) if built_in or not texts else ()
        self.texts = (*texts, *own)
        self.chunks, self.origins = self._cut()
        # ggml's threads spin between two parts of a graph, so as many again would stand in the way.
        threads = max(1, (options.run.threads or cpu_info().threads) // 2)
        length = options.run.context_length
        self.matrix = ImportanceAccumulator(chunk_size=length, threads=threads)
        self.checkpoint = Checkpoint(output, self._fingerprint(before), length)
        self.resumed = self.done = self._resume()
        if not self.done:
            for matrix in before:
                self.matrix.merge(matrix)
            used = set(self.origins.tolist())
            self.matrix.datasets += [
                text.name for index, text in enumerate(self.texts) if index in used
            ]

    def _load(self) -> tuple[_core.Model, bool]:
        """The model, and whether its multi-token-prediction head can be run."""
        layers = self.options.run.gpu_layers
        if self.options.mtp:
            try:
                _, model = load_model(self.file, mtp=True, gpu_layers=layers)
                return model, model.mtp_layers > 0
            except RunError as error:  # of the head alone, or of the whole model
                self.notes.append(_without_head(error))
        _, model = load_model(self.file, gpu_layers=layers)
        return model, False

    def _cut(self) -> tuple[Tokens, npt.NDArray[np.int64]]:
        """The chunks, and of which text each is."""
        length = self.options.run.context_length
        tokens = [self._tokenize(text) for text in self.texts]
        chunks, origins = mixed(
            [chunks_of(part, length) for part in tokens],
            [text.weight for text in self.texts],
            self.options.chunks,
        )
        if not len(chunks):
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
        return chunks, origins

    def _tokenize(self, text: Text) -> Tokens:
        with running(self.file.path):
            tokens = self.model.tokenize(text.content, parse_special=text.parse_special)
        return tokens[self.options.skip_chunks * self.options.run.context_length :]

    def _fingerprint(self, before: Sequence[ImportanceMatrix]) -> str:
        """Of everything that decides the result; a checkpoint of another run has another."""
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
        name = self.checkpoint.path.name
        if not self.checkpoint.path.exists():
            return 0
        if not self.checkpoint.resume(self.matrix):
            self.notes.append(
                f"{name} was left by a run with other texts or settings and was not used"
            )
            return 0
        self.notes.append(f"went on after {self.checkpoint.saved} chunks of {name}")
        return self.checkpoint.saved

    def execute(
        self, report: Report | None, *, legacy: bool, notes: Mapping[str, str | int]
    ) -> CalibrationResult:
        begin = time.monotonic()
        try:
            if report is not None:
                chunks = self.chunks[self.done :]
                left = estimated_seconds(self.file, self.model, chunks, self.options.run)
                report(self._progress(0.0, left))
            coverage = self._collect(report)
            self._write(legacy, notes)
        except BaseException:  # an interrupt too; what was collected is not lost
            with suppress(OutputError):
                if self.checkpoint.save(self.matrix.datasets) and report is not None:
                    report(self._progress(0.0, None))
            raise
        return self._result(coverage, time.monotonic() - begin)

    def _collect(self, report: Report | None) -> Coverage | None:
        """Run the chunks that are left, or until enough experts are covered."""
        begin = time.monotonic()
        coverage = self._coverage()
        for done in self._groups():
            self.done = done
            self.checkpoint.keep(done, self.matrix)
            coverage = self._coverage()
            if done - self.checkpoint.saved >= self.options.save_every:
                self.checkpoint.save(self.matrix.datasets)
            if report is not None:
                seconds = max(time.monotonic() - begin, 1e-9) / (done - self.resumed)
                speed = self.options.run.context_length / seconds
                report(self._progress(speed, (len(self.chunks) - done) * seconds, coverage))
            if self._is_covered(coverage):
                break
        return coverage

    def _progress(
        self, speed: float, seconds_left: float | None, coverage: Coverage | None = None
    ) -> CalibrationProgress:
        return CalibrationProgress(
            self.done, len(self.chunks), self.checkpoint.saved, speed, seconds_left, coverage
        )

    def _groups(self) -> Iterator[int]:
        """Run the chunks that are left; yields after each group how many are done."""
        options, collect = self.options.run, self.matrix.accumulator
        path = self.file.path
        with running(path):
            trunk = make_context(
                self.file,
                self.model,
                options,
                collect=[collect],
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
            return make_context(
                self.file, self.model, self.options.run, mtp=True, collect=[collect]
            )
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

    def _text_chunks(self) -> dict[str, int]:
        counts = np.bincount(self.origins[: self.done], minlength=len(self.texts))
        return {text.name: int(count) for text, count in zip(self.texts, counts, strict=True)}

    def _write(self, legacy: bool, notes: Mapping[str, str | int]) -> None:
        what = {
            "model": self.file.path.name,
            "chunks": self.done,
            "chunk_size": self.options.run.context_length,
            "texts": self._text_chunks(),
            "mtp": self.has_mtp,
            "apex": _core.__version__,
            "llama.cpp": _core.llama_version,
        }
        own = {
            NOTES["what"]: json.dumps(what),
            NOTES["model"]: self.digest,
            NOTES["extent"]: json.dumps(self.options.extent),
        }
        self.matrix.save(self.output, legacy=legacy, overwrite=True, notes={**own, **notes})
        self.checkpoint.remove()

    def _result(self, coverage: Coverage | None, seconds: float) -> CalibrationResult:
        wanted = self.options.until_coverage
        if wanted is not None and coverage is not None and not self._is_covered(coverage):
            self.notes.append(
                f"the texts ended at a coverage of {coverage.share:.4f}, below {wanted}"
            )
        return CalibrationResult(
            self.output,
            self.done,
            self.done * self.options.run.context_length,
            seconds,
            self.resumed,
            coverage,
            self._text_chunks(),
            len(self.matrix.accumulator.counts()),
            tuple(self.notes),
            peak_memory(),
        )


def _without_head(error: RunError) -> str:
    return f"the multi-token-prediction head gets no data: {error.message.rstrip('.')}"
