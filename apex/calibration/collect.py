"""Runs a model over texts and collects its importance matrix."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
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
from apex.calibration.passes import OUTPUT, Passes
from apex.calibration.runner import Runner
from apex.cpu import cpu_info
from apex.errors import OutputError, UsageError
from apex.files import ImportanceMatrix, check_output, load_imatrix
from apex.inference import Tokens, chunks_of, peak_memory, running
from apex.sources import ModelFile, open_model

__all__ = ["NOTES", "calibrate"]

# Keys of what an importance matrix says about itself, beside what llama-imatrix writes.
NOTES = {
    "what": "apex.calibration",
    "model": "apex.calibration.model",
    "extent": "apex.calibration.extent",
    "automatic": "apex.calibration.automatic",
}

# How much longer it takes with second moments: less with few columns, see bench_inference.py.
_WITH_MOMENTS = 2.0

Report = Callable[[CalibrationProgress], None]


def calibrate(
    model: str | os.PathLike[str] | ModelFile,
    output: str | os.PathLike[str],
    texts: Sequence[Text] = (),
    *,
    built_in: bool = False,
    options: CollectOptions | None = None,
    continue_from: Sequence[str | os.PathLike[str]] = (),
    second_moments: str | os.PathLike[str] | None = None,
    max_memory: int | None = None,
    legacy: bool = False,
    overwrite: bool = False,
    notes: Mapping[str, str | int] | None = None,
    progress: Report | None = None,
) -> CalibrationResult:
    """Run a model over texts and write its importance matrix.

    texts: without any, the built-in diverse set; built_in: that set beside them.
    continue_from: importance matrices to add to.
    second_moments: the second-moment file to write too, of these texts alone.
    max_memory: bytes that its sums may take; where that is too little for all tensors, the texts
        are run several times. None for half of what is free.
    legacy: write a .dat instead of a GGUF file.
    notes: further metadata for the GGUF file.
    progress: see CalibrationProgress.

    A run that was stopped, by whatever exception, leaves a checkpoint of all whole groups of chunks
    beside the output. The same call goes on from there, and the file that it writes is the same as
    that of a run that was not stopped.
    Raises ModelFileError, RunError, DataError, ImatrixError, OutputError, UsageError.
    """
    file = model if isinstance(model, ModelFile) else open_model(model)
    options = options or CollectOptions()
    path = Path(output)
    moments = None if second_moments is None else Path(second_moments)
    read = [*file.files, *(text.file for text in texts if text.file), *continue_from]
    check_output([path, *([moments] if moments else [])], read, overwrite=overwrite)
    check_output([checkpoint_path(path)], read, overwrite=True)
    if moments is not None and options.until_coverage is not None:
        raise UsageError(
            "Second moments need a number of chunks that is known beforehand.",
            "give --chunks instead of --until-coverage",
        )
    run = _Run(file, path, texts, options, continue_from, built_in=built_in)
    if moments is not None:
        run.collect_moments(moments, max_memory)
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
        before = [load_imatrix(path) for path in continue_from]
        self.runner = Runner(file, options)
        self.model, self.notes = self.runner.model, self.runner.notes
        self.digest = model_digest(file)
        own = documents.built_in(self.model) if built_in or not texts else ()
        self.texts = (*texts, *own)
        self.chunks, self.origins = self._cut()
        # ggml's threads spin between two parts of a graph, so as many again would stand in the way.
        threads = max(1, (options.run.threads or cpu_info().threads) // 2)
        length = options.run.context_length
        without = () if options.output_matrix else (OUTPUT,)
        self.matrix = ImportanceAccumulator(chunk_size=length, threads=threads, without=without)
        self.passes: Passes | None = None
        self.earlier: list[list[str]] = []  # passes without squares
        self.last: list[str] = []  # the tensors of the pass that comes with them
        self.passed = 0  # chunks of earlier passes
        self.checkpoint = Checkpoint(output, self._fingerprint(before), length)
        self.resumed = self.done = self._resume()
        if not self.done:
            for matrix in before:
                self.matrix.merge(matrix)
            self.matrix.datasets += self._datasets()

    def _datasets(self) -> list[str]:
        used = set(self.origins.tolist())
        return [text.name for index, text in enumerate(self.texts) if index in used]

    def collect_moments(self, path: Path, max_memory: int | None) -> None:
        """Collect second moments too."""
        self.passes = Passes(
            path,
            self.runner,
            self.chunks,
            self.options.run,
            model_digest=self.digest,
            datasets=self._datasets(),
            identity=self._identity().hexdigest(),
            max_memory=max_memory,
        )

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

    def _identity(self) -> hashlib._Hash:
        """Of the texts and settings."""
        digest = hashlib.sha256()
        digest.update(repr((self.options.run.to_dict() | {"threads": 0}).items()).encode())
        options = (self.options.output_matrix, self.runner.has_mtp, _core.__version__)
        digest.update(repr(options).encode())
        digest.update(np.ascontiguousarray(self.chunks).tobytes())
        return digest

    def _fingerprint(self, before: Sequence[ImportanceMatrix]) -> str:
        """Of everything that decides the result; a checkpoint of another run has another."""
        digest = self._identity()
        for part in self.file.files:
            status = part.stat()
            digest.update(f"{status.st_size} {status.st_mtime_ns};".encode())
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
        with self.passes or nullcontext():
            try:
                self._take_passes()
                if report is not None:
                    report(self._progress(0.0, self._estimate()))
                coverage = self._collect(report)
                self._write(legacy, notes)
            except BaseException:  # an interrupt too; what was collected is not lost
                with suppress(OutputError):
                    if self.checkpoint.save(self.matrix.datasets) and report is not None:
                        report(self._progress(0.0, None))
                raise
            if self.passes is not None:
                self.passes.commit()
        return self._result(coverage, time.monotonic() - begin)

    def _take_passes(self) -> None:
        """Which passes of second moments to make, and whether the last comes with the squares.

        Squares that go on after a checkpoint do not see all chunks; then each runs by itself.
        """
        if self.passes is not None:
            self.earlier = list(self.passes.left)
            if self.earlier and not self.done:
                self.last = self.earlier.pop()

    def _estimate(self) -> float | None:
        chunks = self.chunks[self.done :]
        seconds = estimated_seconds(self.file, self.model, chunks, self.options.run)
        if seconds is None or self.passes is None:
            return seconds
        whole = (len(self.earlier) + 1) * len(self.chunks) - self.done
        return _WITH_MOMENTS * seconds * whole / len(chunks)

    def _collect(self, report: Report | None) -> Coverage | None:
        """Make the passes, then run the chunks that are left, or until enough is covered."""
        begin = time.monotonic()
        coverage = self._coverage()
        squares, moments = self.matrix.accumulator, None
        if self.passes is not None:
            for done in self.passes.make(self.earlier):
                self.passed = done
                self._tell(report, begin, None)
            moments = self.passes.sink(self.last) if self.last else None
        sinks = [squares] if moments is None else [squares, moments]
        output = self.options.output_matrix or OUTPUT in self.last
        for done in self.runner.groups(self.chunks[self.resumed :], sinks, output=output):
            self.done = self.resumed + done
            self.checkpoint.keep(self.done, self.matrix)
            coverage = self._coverage()
            if self.done - self.checkpoint.saved >= self.options.save_every:
                self.checkpoint.save(self.matrix.datasets)
            self._tell(report, begin, coverage)
            if self._is_covered(coverage):
                break
        if self.passes is not None and moments is not None:
            self.passes.write(moments, self.last)
        return coverage

    def _tell(self, report: Report | None, begin: float, coverage: Coverage | None) -> None:
        """Report how far it is, and how fast that went since ``begin``."""
        if report is not None:
            now = self._progress(0.0, None, coverage)
            seconds = max(time.monotonic() - begin, 1e-9) / (now.chunks_done - self.resumed)
            speed = self.options.run.context_length / seconds
            left = (now.chunks - now.chunks_done) * seconds
            report(replace(now, tokens_per_second=speed, seconds_left=left))

    def _progress(
        self, speed: float, seconds_left: float | None, coverage: Coverage | None = None
    ) -> CalibrationProgress:
        count = len(self.chunks)
        return CalibrationProgress(
            self.passed + self.done,
            (len(self.earlier) + 1) * count,
            self.passed // count * count + self.checkpoint.saved,
            speed,
            seconds_left,
            coverage,
            None if self.passes is None else self.passes.plan,
        )

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
            "mtp": self.runner.has_mtp,
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
            None if self.passes is None else self.passes.plan,
        )
