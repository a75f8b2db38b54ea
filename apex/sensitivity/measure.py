"""Measures what each group of a model's tensors costs, and writes it beside the model."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from apex import _core
from apex.calibration import Text
from apex.errors import OutputError, SensitivityError, UsageError
from apex.files import ImportanceMatrix, check_output
from apex.inference import Divergences, ResidentModel
from apex.policy import Layout
from apex.quantizing import RunSettings
from apex.sensitivity.binding import check_model, identity_of
from apex.sensitivity.chunks import select_chunks
from apex.sensitivity.data import Group, Probe, Sensitivity, TextIdentity
from apex.sensitivity.errors import candidates_of, measure_tables
from apex.sensitivity.groups import groups_of
from apex.sensitivity.losses import floor_of
from apex.sensitivity.options import MeasureOptions, MeasureProgress, MeasureResult
from apex.sensitivity.order import probe_order
from apex.sensitivity.probing import Prober
from apex.sensitivity.serial import load_sensitivity, save_sensitivity
from apex.sources import ModelFile, open_model

__all__ = ["measure", "sensitivity_path"]

# The trunk does not run them, so that no divergence of its output can show what they cost.
_UNSEEN = "multi-token prediction"

Report = Callable[[MeasureProgress], None]


def sensitivity_path(model: ModelFile) -> Path:
    """Where a model's own sensitivity is kept: ``NAME.sensitivity.json`` in its folder."""
    return model.path.with_name(model.path.name.removesuffix(".gguf") + ".sensitivity.json")


def measure(
    model: str | os.PathLike[str] | ModelFile,
    output: str | os.PathLike[str],
    matrix: ImportanceMatrix | None = None,
    texts: Sequence[Text] = (),
    *,
    options: MeasureOptions | None = None,
    overwrite: bool = False,
    progress: Report | None = None,
) -> MeasureResult:
    """Measure what each group of a model's tensors costs, and write it.

    matrix: the importance matrix with which the model will be quantized; without one, the types
        that need importance are not measured.
    texts: over which the model runs; without any, the built-in diverse set.
    progress: see MeasureProgress.

    A run that was stopped, by whatever exception, leaves a checkpoint beside the output, from
    which the same call goes on. Raises ModelFileError, RunError, DataError, ImatrixError,
    OutputError, UsageError.
    """
    file = model if isinstance(model, ModelFile) else open_model(model)
    path = Path(output)
    given = options or MeasureOptions()
    read: list[str | os.PathLike[str]] = [*file.files, *(t.file for t in texts if t.file)]
    read += [matrix.path] if matrix is not None else []
    read += [given.resident] if given.resident is not None else []
    check_output([path], read, overwrite=overwrite)
    check_output([_checkpoint(path)], read, overwrite=True)
    return _Measurement(file, path, matrix, texts, given, progress or (lambda _: None)).execute()


def _checkpoint(output: Path) -> Path:
    return output.with_name(output.name + ".checkpoint")


class _Measurement:
    def __init__(
        self,
        file: ModelFile,
        output: Path,
        matrix: ImportanceMatrix | None,
        texts: Sequence[Text],
        options: MeasureOptions,
        report: Report,
    ) -> None:
        self.started = time.monotonic()
        self.file = file
        self.output = output
        self.matrix = matrix
        self.options = options
        self.report = report
        self.notes: list[str] = []
        self.tokens = self.resumed = 0
        self.saved_at = self.started
        self.candidates = candidates_of(file, matrix)
        layout = Layout.from_metadata(file.metadata)
        groups = groups_of(list(self.candidates), layout, options.detail)
        if not groups:
            raise UsageError(f"{file.path} has no tensor to quantize.", "is it a language model?")
        self.resident = ResidentModel(self._resident_file(), options.run)
        self.chunks = select_chunks(
            self.resident.model, texts, options.run.context_length, options.chunks, 0
        )
        self.now = Sensitivity(
            identity_of(file),
            self._text_identity(),
            self._resident_type(),
            "" if matrix is None else matrix.digest,
            0.0,
            groups,
            {},
            {
                "levels": list(options.levels),
                "detail": options.detail,
                "sample": options.sample,
                "run": options.run.to_dict(),
                "apex": _core.__version__,
            },
            is_complete=False,
        )

    def _resident_file(self) -> ModelFile:
        if self.options.resident is None:
            return self.file
        resident = open_model(self.options.resident)
        names = {(tensor.name, tensor.shape) for tensor in self.file.tensors}
        if names != {(tensor.name, tensor.shape) for tensor in resident.tensors}:
            raise UsageError(
                f"{resident.path} is not a file of the same model as {self.file.path}.",
                "give a file that was made from it, such as a Q8_0 one",
            )
        return resident

    def _resident_type(self) -> str:
        sizes: dict[str, int] = {}
        for tensor in self.resident.file.tensors:
            sizes[tensor.type] = sizes.get(tensor.type, 0) + tensor.weights
        return max(sizes, key=lambda name: sizes[name])

    def _text_identity(self) -> TextIdentity:
        chunks = self.chunks.probing
        length = self.options.run.context_length
        return TextIdentity(
            self.chunks.names,
            hashlib.sha256(np.ascontiguousarray(chunks).tobytes()).hexdigest(),
            length,
            len(chunks),
            len(chunks) * (length - length // 2),
        )

    def execute(self) -> MeasureResult:
        try:
            self._resume()
            if not self.now.errors:
                self._measure_errors()
            self._probe_all()
        except BaseException:  # an interrupt too; what was measured is not lost
            with suppress(OutputError):
                self._save()
            raise
        is_complete = all(
            len(group.probes) == len(self.options.levels) or group.kind == _UNSEEN
            for group in self.now.groups
        )
        self.now = replace(self.now, floor=floor_of(self.now), is_complete=is_complete)
        inputs = [*self.file.files]
        save_sensitivity(self.now, self.output, overwrite=True, inputs=inputs)
        with suppress(FileNotFoundError):
            _checkpoint(self.output).unlink()
        return MeasureResult(
            self.output,
            self.now,
            self._made(),
            self.resumed,
            self.tokens,
            time.monotonic() - self.started,
            tuple(self.notes),
        )

    def _made(self) -> int:
        return sum(len(group.probes) for group in self.now.groups)

    def _resume(self) -> None:
        """Take over a checkpoint of this very measurement."""
        path = _checkpoint(self.output)
        if not path.exists():
            return
        try:
            found = load_sensitivity(path)
            check_model(found, self.file)
        except SensitivityError:
            found = None
        mine = self.now
        if found is None or (found.text, found.imatrix, found.resident_type, found.settings) != (
            mine.text,
            mine.imatrix,
            mine.resident_type,
            mine.settings,
        ):
            self.notes.append(f"{path.name} was left by another measurement and was not used")
            return
        self.now = found
        self.resumed = self._made()
        self.notes.append(f"went on after {self.resumed} probes of {path.name}")

    def _save(self) -> None:
        if self.now.errors:
            save_sensitivity(self.now, _checkpoint(self.output), overwrite=True)
            self.saved_at = time.monotonic()

    def _measure_errors(self) -> None:
        tables = measure_tables(
            self.file,
            self.matrix,
            self.candidates,
            RunSettings(threads=self.options.run.threads),
            sample=self.options.sample,
            progress=lambda step: self.report(
                MeasureProgress("errors", step.done_bytes, step.total_bytes, step.tensor)
            ),
        )
        self.now = replace(self.now, errors=tables)
        self._save()

    def _probe_all(self) -> None:
        seen = [group for group in self.now.groups if group.kind != _UNSEEN]
        order = probe_order(seen, self.options.levels)
        left = [(seen[index].name, level) for index, level in order]
        done = {g.name: len(g.probes) for g in self.now.groups}
        todo = [
            (name, level) for name, level in left if self.options.levels.index(level) >= done[name]
        ]
        if not todo:
            return
        chunks = self.chunks.probing
        begin = time.monotonic()
        divergences = Divergences(
            self.resident,
            chunks,
            lambda count: self.report(MeasureProgress("reference", count, len(chunks))),
        )
        self.tokens += chunks.size
        if not divergences.is_exact:
            self.notes.append(
                "of each position the 256 most likely tokens were compared, since memory is short"
            )
        prober = Prober(self.file, self.matrix, self.candidates, self.resident, divergences)
        seconds = time.monotonic() - begin  # of a probe, until one was made
        for number, (name, level) in enumerate(todo):
            remaining = (len(todo) - number) * seconds
            if self._is_late(seconds):
                self.notes.append(
                    f"the time was up after {number} of {len(todo)} probes; what is missing is "
                    "taken from layers nearby"
                )
                break
            self.report(
                MeasureProgress(
                    "probes", number, len(todo), name, remaining, (len(todo) - number) * chunks.size
                )
            )
            self._probe(prober, name, level)
            self.tokens += chunks.size
            seconds = (time.monotonic() - begin) / (number + 2)
            if time.monotonic() - self.saved_at > self.options.save_every:
                self._save()

    def _is_late(self, seconds: float) -> bool:
        limit = self.options.seconds
        return limit is not None and time.monotonic() - self.started + seconds > limit

    def _probe(self, prober: Prober, name: str, level: str) -> None:
        groups = list(self.now.groups)
        index = next(i for i, group in enumerate(groups) if group.name == name)
        probe = prober.probe(groups[index], level, self.now.errors)
        groups[index] = _with(groups[index], probe)
        self.now = replace(self.now, groups=tuple(groups))


def _with(group: Group, probe: Probe) -> Group:
    return replace(group, probes=(*group.probes, probe))
