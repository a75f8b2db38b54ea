"""Everything that can be measured of some models, in one go."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from apex import _core
from apex.cpu import cpu_info
from apex.errors import UsageError
from apex.evaluation.base_file import BaseFile, open_base_file
from apex.evaluation.harness import Harness
from apex.evaluation.language import LanguageRun, TextPass, text_chunks
from apex.evaluation.options import EvalOptions, EvalProgress, Report
from apex.evaluation.results import ModelResult
from apex.evaluation.speed import measure_speed
from apex.evaluation.task_files import Tasks, load_tasks
from apex.evaluation.tasks import TaskResult, run_tasks
from apex.files import check_output
from apex.inference import RunOptions, available_memory, load_model, peak_memory, read_text
from apex.sources import open_model
from apex.verification import verify

__all__ = ["Evaluator"]

FORMAT = "apex evaluation 1"
_HASH_BYTES = 4 << 20


class Evaluator:
    """Measures models; what was found until then is kept when it is interrupted.

    Everything that can be checked is checked when it is made: files, texts, tasks. Raises
    UsageError, ModelFileError, and OutputError where ``write_base`` is one of the files to read.
    """

    def __init__(
        self,
        models: Sequence[str | os.PathLike[str]],
        options: EvalOptions,
        *,
        reference: str | os.PathLike[str] | None = None,
        base: str | os.PathLike[str] | None = None,
        write_base: str | os.PathLike[str] | None = None,
    ) -> None:
        if reference is not None and base is not None:
            raise UsageError("A reference is a model or a base file, not both.")
        if write_base is not None and reference is None:
            raise UsageError("A base file is written of a reference.", "give --reference MODEL")
        if not models and write_base is None:
            raise UsageError("There is nothing to compare with the reference.", "give a model")
        if options.tensor_errors and reference is None:
            raise UsageError("Tensors are compared with a reference.", "give --reference MODEL")
        asked = (options.text, base, options.tasks, options.harness, options.speed)
        if not any((*asked, options.tensor_errors)):
            raise UsageError(
                "Nothing was asked for.",
                "give a text (-f FILE), tasks (--hellaswag FILE, --harness NAME, …) or --speed",
            )
        self.options = options
        self.base: BaseFile | None = None if base is None else open_base_file(base)
        self.write_base = None if write_base is None else Path(write_base)
        self._text = None if options.text is None else read_text(options.text)
        self._tasks: list[Tasks] = [load_tasks(*task) for task in options.tasks]
        self.reference = (
            None if reference is None else ModelResult(open_model(reference), is_reference=True)
        )
        self.models = [ModelResult(open_model(path), is_reference=False) for path in models]
        self.chunks = 0
        self.seconds = 0.0
        self.complete = False
        self.notes = [
            f"{tasks.path.name}: {tasks.unreadable} of {tasks.available + tasks.unreadable} lines "
            "do not hold a task and were left out"
            for tasks in self._tasks
            if tasks.unreadable
        ]
        for result in self.results:
            result.file.require_data()
        if self.write_base is not None:
            check_output([self.write_base], self.inputs, overwrite=True)
        self._run_options = self._options_for_base()
        # Last: it may fetch data.
        self._harness = None if options.harness is None else Harness(options.harness)

    def _options_for_base(self) -> RunOptions:
        """A base file decides the context length."""
        run = self.options.run
        if self.base is None:
            return run
        length = self.base.chunks.shape[1]
        return replace(run, context_length=length)

    @property
    def results(self) -> list[ModelResult]:
        """The reference, if it is a model, and the others."""
        return [*([self.reference] if self.reference else []), *self.models]

    @property
    def inputs(self) -> list[Path]:
        """Every file that is read, which no output may be."""
        files = [file for result in self.results for file in result.file.files]
        files += [tasks.path for tasks in self._tasks]
        files += [] if self.options.text is None else [Path(self.options.text)]
        return files + ([] if self.base is None else [self.base.path])

    def run(self, report: Report = lambda progress: None) -> None:
        """Measure everything. Raises RunError, ModelFileError, DataError, OutputError."""
        begin = time.monotonic()
        try:
            if self._text is not None or self.base is not None:
                self._run_text(report)
            for result in self.results:
                self._run_tasks_and_speed(result, report)
            if self.options.tensor_errors and self.reference is not None:
                for result in self.models:
                    self._compare_tensors(result, self.reference, report)
            if self.options.file_hash:
                for result in self.results:
                    self._hash(result, report)
            self.complete = True
        finally:
            self.seconds = time.monotonic() - begin
            for result in self.results:
                result.tasks = [task for task in result.tasks if task.tasks]

    def _run_text(self, report: Report) -> None:
        compared = self.reference is not None or self.base is not None
        # Side by side where they share a reference's pass; one after the other where not.
        groups = [self.results] if compared else [[result] for result in self.models]
        if compared:
            self._note_memory()
        for group in groups:
            runs = [
                LanguageRun(result.file, self._run_options, mtp=self.options.mtp)
                for result in group
            ]
            self._note_models(runs)
            try:
                self._run_group(group, runs, report)
            finally:
                for result, run in zip(group, runs, strict=True):
                    result.perplexity = run.perplexity
                    result.divergence = run.divergence
                    result.mtp_agreement = run.mtp_agreement
                    result.mtp_perplexity = run.mtp_perplexity

    def _run_group(
        self, group: Sequence[ModelResult], runs: Sequence[LanguageRun], report: Report
    ) -> None:
        """One pass over the text, by models that go through it together."""
        if self.base is not None:
            chunks = self.base.chunks[: self.options.chunks]
        else:
            assert self._text is not None
            chunks = text_chunks(runs[0], self._text, self.options.chunks)
        text_pass = TextPass(
            runs if self.reference is None else runs[1:],
            chunks,
            reference=None if self.reference is None else runs[0],
            base=self.base,
            write_base=self.write_base,
        )
        name, last = ("", f"{group[-1].name}: ") if len(group) > 1 else (group[0].name, "")
        report(EvalProgress("text", name, 0, len(chunks)))
        for done in text_pass.go():
            self.chunks = done
            report(EvalProgress("text", name, done, len(chunks), last + runs[-1].estimate))

    def _note_models(self, runs: Sequence[LanguageRun]) -> None:
        leader = min(runs, key=lambda run: run.model.context_length)
        trained = leader.model.context_length
        if self._run_options.context_length > trained:
            self.notes.append(
                f"{leader.file.path.name} was trained on contexts of {trained} tokens"
            )
        for run in runs:
            if self.options.mtp and not run.model.mtp_layers:
                self.notes.append(f"{run.file.path.name} has no multi-token-prediction head to run")

    def _note_memory(self) -> None:
        if self.options.run.gpu_layers:
            return  # what a GPU holds is read once
        available = available_memory()
        mapped = sum(result.file.bytes for result in self.results)
        if available is not None and mapped > available:
            self.notes.append(
                f"the models take {mapped / 2**30:.1f} GiB together and {available / 2**30:.1f} "
                "GiB are free, so they are read again and again; fewer at a time, or a base file "
                "(--write-base, then --base), is faster"
            )

    def _run_tasks_and_speed(self, result: ModelResult, report: Report) -> None:
        if not self._tasks and self._harness is None and self.options.speed is None:
            return
        file, model = load_model(result.file, gpu_layers=self.options.run.gpu_layers)
        for tasks in self._tasks:
            result.tasks.append(TaskResult(tasks.kind, tasks.path.stem, 0, 0, 0.0))

            def on_task(so_far: TaskResult, total: int) -> None:
                result.tasks[-1] = so_far
                estimate = f"{100 * so_far.accuracy:.2f} %"
                report(EvalProgress(so_far.kind, result.name, so_far.tasks, total, estimate))

            result.tasks[-1] = run_tasks(file, model, tasks, self._run_options, on_task)
        if self._harness is not None:
            result.harness, notes = self._harness.run(
                file,
                model,
                self._run_options,
                lambda what, done, total: report(EvalProgress(what, result.name, done, total)),
            )
            self.notes += notes
        if self.options.speed is not None:
            result.speed = measure_speed(
                file,
                model,
                self.options.run,
                **asdict(self.options.speed),
                progress=lambda name, done, total: report(
                    EvalProgress(f"speed, {name}", result.name, done, total)
                ),
            )

    def _compare_tensors(self, result: ModelResult, reference: ModelResult, report: Report) -> None:
        result.errors = verify(
            result.file,
            reference.file,
            threads=self.options.run.threads,
            progress=lambda done, total: report(
                EvalProgress("tensor errors", result.name, done, total)
            ),
        )

    def _hash(self, result: ModelResult, report: Report) -> None:
        total, done = result.file_bytes, 0
        for part in result.file.files:
            digest = hashlib.sha256()
            with part.open("rb") as file:
                while block := file.read(_HASH_BYTES):
                    digest.update(block)
                    done += len(block)
                    report(EvalProgress("file hash", result.name, done, total))
            result.sha256[part.name] = digest.hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """What is known, for JSON."""
        options = self.options
        return {
            "format": FORMAT,
            "complete": self.complete,
            "apex": _core.__version__,
            "llama.cpp": _core.llama_version,
            "machine": {
                "system": platform.system(),
                "processor": _processor(),
                "threads": cpu_info().threads,
                "inference": _core.inference_features(),
                "gpus": [name for _, name, _, _ in _core.gpu_devices()]
                if options.run.gpu_layers
                else [],
            },
            "settings": {
                **self._run_options.to_dict(),
                "text": None if options.text is None else Path(options.text).name,
                "text_sha256": None
                if self._text is None
                else hashlib.sha256(self._text).hexdigest(),
                "chunks": self.chunks,
                "base": None if self.base is None else self.base.path.name,
                "tasks": [
                    {
                        "kind": t.kind,
                        "file": t.path.name,
                        "drawn": len(t.choices),
                        "of": t.available,
                        "unreadable": t.unreadable,
                    }
                    for t in self._tasks
                ],
                "harness": None if self._harness is None else self._harness.to_dict(),
            },
            "seconds": self.seconds,
            "peak_memory_bytes": peak_memory(),
            "notes": self.notes,
            "models": [result.to_dict() for result in self.results],
        }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
