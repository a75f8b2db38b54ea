"""Everything that can be measured of some models, in one go."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from apex import _core
from apex.cpu import cpu_info
from apex.errors import UsageError
from apex.evaluation.base_file import BaseFile, open_base_file
from apex.evaluation.language import LanguageRun, TextPass, text_chunks
from apex.evaluation.speed import Speed, measure_speed
from apex.evaluation.statistics import Divergence, Measured, Perplexity
from apex.evaluation.tasks import TaskResult, Tasks, load_tasks, run_tasks
from apex.inference import RunOptions, available_memory, load_model, peak_memory, read_text
from apex.policy import Layout, layer_of, role_of
from apex.sources import ModelFile, open_model
from apex.verification import VerifyReport, verify

__all__ = ["EvalOptions", "EvalProgress", "Evaluator", "ModelResult", "SpeedOptions"]

FORMAT = "apex evaluation 1"
_HASH_BYTES = 4 << 20


@dataclass(frozen=True)
class SpeedOptions:
    """How speed is measured: tokens of prompt and generation, repetitions."""

    prompt_tokens: int = 512
    generated_tokens: int = 128
    repetitions: int = 5


@dataclass(frozen=True)
class EvalOptions:
    """What is measured, and how.

    Attributes:
        run: how the models are run.
        text: for perplexity and divergence.
        chunks: at most so many chunks of the text.
        tasks: (kind, file, number or None) of HellaSwag, Winogrande or multiple choice.
        speed: None to leave it out.
        mtp: run the multi-token-prediction head too.
        tensor_errors: compare every tensor's weights with the reference model's.
        file_hash: SHA-256 of the models' files.
    """

    run: RunOptions = field(default_factory=RunOptions)
    text: str | os.PathLike[str] | None = None
    chunks: int | None = None
    tasks: Sequence[tuple[str, str | os.PathLike[str], int | None]] = ()
    speed: SpeedOptions | None = None
    mtp: bool = False
    tensor_errors: bool = False
    file_hash: bool = True


@dataclass(frozen=True)
class EvalProgress:
    """How far an evaluation is.

    Attributes:
        stage: what is done, as in "perplexity" or "hellaswag".
        model: name of the file at work; empty where all run together.
        done, total: steps of the stage.
        estimate: the result so far, in words.
    """

    stage: str
    model: str
    done: int
    total: int
    estimate: str = ""


@dataclass
class ModelResult:
    """What is known of one model.

    Attributes:
        file: the model.
        is_reference: whether the others are compared with it.
        sha256: of each of its files.
        perplexity, divergence, mtp_agreement, mtp_perplexity, tasks, speed, errors: as measured;
            None or empty where not.
    """

    file: ModelFile
    is_reference: bool
    sha256: dict[str, str] = field(default_factory=dict)
    perplexity: Perplexity | None = None
    divergence: Divergence | None = None
    mtp_agreement: Measured | None = None
    mtp_perplexity: Perplexity | None = None
    tasks: list[TaskResult] = field(default_factory=list)
    speed: Speed | None = None
    errors: VerifyReport | None = None

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.file.path.name.removesuffix(".gguf")

    @property
    def file_bytes(self) -> int:
        """Size of all its files."""
        return sum(part.stat().st_size for part in self.file.files)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""

        def data(value: Any) -> Any:
            return None if value is None else value.to_dict()

        return {
            "name": self.name,
            "path": str(self.file.path),
            "is_reference": self.is_reference,
            "bytes": self.file_bytes,
            "bits_per_weight": 8 * self.file.bytes / max(self.file.weights, 1),
            "architecture": self.file.architecture,
            "sha256": self.sha256,
            "perplexity": data(self.perplexity),
            "divergence": data(self.divergence),
            "mtp_agreement": data(self.mtp_agreement),
            "mtp_perplexity": data(self.mtp_perplexity),
            "tasks": [task.to_dict() for task in self.tasks],
            "speed": data(self.speed),
            "tensors": self._tensors(),
        }

    def _tensors(self) -> list[dict[str, Any]]:
        """Every matrix with its place in the model, its type and, where known, its error."""
        layout = Layout.from_metadata(self.file.metadata)
        errors = {} if self.errors is None else {e.name: e.rmse for e in self.errors.tensors}
        return [
            {
                "name": tensor.name,
                "layer": layer_of(tensor.name),
                "role": role_of(tensor.name, layout).value,
                "type": tensor.type,
                "bits_per_weight": 8 * tensor.bytes / tensor.weights,
                "rmse": errors.get(tensor.name),
            }
            for tensor in self.file.tensors
            if len(tensor.shape) > 1
        ]


Report = Callable[[EvalProgress], None]


class Evaluator:
    """Measures models; what is known so far can be had at any time, after an interrupt too.

    Everything that can be checked is checked when it is made: files, texts, tasks. Raises
    UsageError, ModelFileError.
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
        if not (options.text or base or options.tasks or options.speed or options.tensor_errors):
            raise UsageError(
                "Nothing was asked for.",
                "give a text (-f FILE), tasks (--hellaswag FILE, …) or --speed",
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
        self.notes: list[str] = []
        for result in self.results:
            result.file.require_data()
        self._run_options = self._options_for_base()

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
            runs = {
                id(result): LanguageRun(result.file.path, self._run_options, mtp=self.options.mtp)
                for result in group
            }
            reference = None if self.reference is None else runs[id(self.reference)]
            leader = next(iter(runs.values()))
            if self.base is not None:
                chunks = self.base.chunks[: self.options.chunks]
            else:
                assert self._text is not None
                chunks = text_chunks(leader, self._text, self.options.chunks)
            self._note_models(list(runs.values()))
            text_pass = TextPass(
                [run for run in runs.values() if run is not reference],
                chunks,
                reference=reference,
                base=self.base,
                write_base=self.write_base,
            )
            name = "" if len(group) > 1 else group[0].name
            report(EvalProgress("text", name, 0, len(chunks)))
            for done in text_pass.go():
                self.chunks = done
                for result in group:
                    _take(result, runs[id(result)])
                report(EvalProgress("text", name, done, len(chunks), _estimate(group)))

    def _note_models(self, runs: Sequence[LanguageRun]) -> None:
        trained = min(run.model.context_length for run in runs)
        if self._run_options.context_length > trained:
            self.notes.append(f"the model was trained on contexts of {trained} tokens")
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
        if not self._tasks and self.options.speed is None:
            return
        file, model = load_model(result.file.path, gpu_layers=self.options.run.gpu_layers)
        for tasks in self._tasks:
            result.tasks.append(TaskResult(tasks.kind, tasks.path.stem, 0, 0, 0.0))

            def on_task(so_far: TaskResult, total: int) -> None:
                result.tasks[-1] = so_far
                estimate = f"{100 * so_far.accuracy:.2f} %"
                report(EvalProgress(so_far.kind, result.name, so_far.tasks, total, estimate))

            result.tasks[-1] = run_tasks(file, model, tasks, self._run_options, on_task)
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
                    }
                    for t in self._tasks
                ],
            },
            "seconds": self.seconds,
            "peak_memory_bytes": peak_memory(),
            "notes": self.notes,
            "models": [result.to_dict() for result in self.results],
        }


def _take(result: ModelResult, run: LanguageRun) -> None:
    result.perplexity = run.perplexity
    result.divergence = run.divergence
    result.mtp_agreement = run.mtp_agreement
    result.mtp_perplexity = run.mtp_perplexity


def _estimate(group: Sequence[ModelResult]) -> str:
    last = group[-1]
    parts = []
    if last.perplexity is not None:
        parts.append(f"PPL {last.perplexity.ppl.value:.3f}")
    if last.divergence is not None:
        parts.append(f"KL {last.divergence.kl.value:.5f}")
    name = f"{last.name}: " if len(group) > 1 else ""
    return name + ", ".join(parts)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
