"""Measures what each group of a model's tensors costs, and writes it beside the model."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from apex.calibration import Text
from apex.calibration import built_in as built_in_texts
from apex.errors import OutputError, UsageError
from apex.files import ImportanceMatrix, check_output, load_second_moments
from apex.inference import Divergences, ResidentModel
from apex.policy import Layout
from apex.quantizing import RunSettings
from apex.sensitivity.anchors import ANCHOR_BITS, measure_anchors
from apex.sensitivity.binding import identity_of
from apex.sensitivity.chunks import select_chunks
from apex.sensitivity.data import Sensitivity
from apex.sensitivity.errors import candidates_of, measure_tables
from apex.sensitivity.groups import groups_of
from apex.sensitivity.losses import floor_of
from apex.sensitivity.options import MeasureCost, MeasureOptions, MeasureProgress, MeasureResult
from apex.sensitivity.order import probe_order
from apex.sensitivity.pace import Pace
from apex.sensitivity.probing import Prober, within_room
from apex.sensitivity.residence import main_type, require_same_weights, resident_file
from apex.sensitivity.resuming import checkpoint_path, probes_of, unfinished
from apex.sensitivity.serial import rounded, save_sensitivity
from apex.sources import ModelFile, open_model

__all__ = ["measure", "sensitivity_path"]

# The trunk does not run them, so that no divergence of its output can show what they cost.
_UNSEEN = "multi-token prediction"

Report = Callable[[MeasureProgress], None]


def sensitivity_path(model: ModelFile) -> Path:
    """Where a model's own sensitivity is kept: ``NAME.sensitivity.json`` in its folder."""
    return model.beside(".sensitivity.json")


def measure(
    model: str | os.PathLike[str] | ModelFile,
    output: str | os.PathLike[str],
    matrix: ImportanceMatrix | None = None,
    texts: Sequence[Text] = (),
    *,
    built_in: bool = False,
    options: MeasureOptions | None = None,
    overwrite: bool = False,
    progress: Report | None = None,
) -> MeasureResult:
    """Measure what each group of a model's tensors costs, and write it.

    matrix: the importance matrix with which the model will be quantized; without one, the types
        that need importance are not measured.
    texts: over which the model runs; without any, the built-in diverse set; built_in: that set
        beside them.
    progress: see MeasureProgress.

    A run that was stopped, by whatever exception, leaves a checkpoint beside the output, from
    which the same call goes on and ends with the same file. So it does, where it may overwrite,
    from an output whose time was up. Raises ModelFileError, RunError, DataError, ImatrixError,
    OutputError, UsageError.
    """
    file = model if isinstance(model, ModelFile) else open_model(model)
    path = Path(output)
    given = options or MeasureOptions()
    read: list[str | os.PathLike[str]] = [*file.files, *(t.file for t in texts if t.file)]
    read += [matrix.path] if matrix is not None else []
    read += [path for path in (given.resident, given.second_moments) if path is not None]
    check_output([path], read, overwrite=overwrite)
    check_output([checkpoint_path(path)], read, overwrite=True)
    measurement = _Measurement(file, path, matrix, given, progress or (lambda _: None))
    measurement.load(texts, built_in=built_in)
    return measurement.execute()


class _Measurement:
    def __init__(
        self,
        file: ModelFile,
        output: Path,
        matrix: ImportanceMatrix | None,
        options: MeasureOptions,
        report: Report,
    ) -> None:
        """Check everything that can be checked before the model is loaded."""
        self.pace = Pace(options.seconds)
        self.file = file
        self.output = output
        self.matrix = matrix
        self.options = options
        self.report = report
        self.notes: list[str] = []
        self.tokens = self.resumed = self.saved = 0
        self.saved_at = self.pace.started
        given = options.second_moments
        self.moments = None if given is None else load_second_moments(given)
        self.candidates = candidates_of(file, matrix, options.rounding, self.moments)
        layout = Layout.from_metadata(file.metadata)
        self.groups = groups_of(list(self.candidates), layout, options.detail)
        seen = [name for group in self.groups if group.kind != _UNSEEN for name in group.tensors]
        if not seen:
            raise UsageError(f"{file.path} has no tensor to quantize.", "is it a language model?")
        self.room = resident_file(file, options.resident)
        self.reachable = within_room(
            {name: self.candidates[name] for name in seen}, self.room, options.levels
        )
        identity = identity_of(file)
        require_same_weights(self.room, file, identity)
        samples = {name: rounded(value) for name, value in identity.samples.items()}
        self.identity = replace(identity, samples=samples)

    def load(self, texts: Sequence[Text], *, built_in: bool) -> None:
        """Load the model, choose the chunks, and take over what an earlier run left."""
        self.resident = ResidentModel(self.room, self.options.run)
        if built_in and texts:
            texts = (*texts, *built_in_texts(self.resident.model))
        length = self.options.run.context_length
        self.chunks = select_chunks(self.resident.model, texts, length, self.options.chunks, 0)
        self.now = Sensitivity(
            self.identity,
            self.chunks.identity(len(self.chunks.probing)),
            main_type(self.room),
            "" if self.matrix is None else self.matrix.digest,
            0.0,
            self.groups,
            {},
            self.options.settings(),
            is_complete=False,
            rounding=self.options.rounding,
            second_moments="" if self.moments is None else self.moments.digest,
        )
        self._resume()
        self.cost = self._cost()

    def _resume(self) -> None:
        """Take over a checkpoint of this very measurement, or an output that is not complete."""
        checkpoint = checkpoint_path(self.output)
        path, found = checkpoint, unfinished(checkpoint, self.now, self.chunks, self.file)
        if found is None:
            path, found = self.output, unfinished(self.output, self.now, self.chunks, self.file)
        if found is None:
            if checkpoint.exists():
                self.notes.append(
                    f"{checkpoint.name} was left by another measurement and was not used"
                )
            return
        self.resumed = self.saved = probes_of(found)
        text = found.text if self.resumed else self.now.text
        self.now = replace(found, floor=0.0, text=text)
        self.notes.append(f"went on after {_counted(self.resumed, 'probe')} of {path.name}")
        if text.chunks < len(self.chunks.probing):
            self.notes.append(
                f"the probes run over {text.chunks} of {len(self.chunks.probing)} chunks, as those "
                "that were there"
            )

    def execute(self) -> MeasureResult:
        """Measure what is missing, and write all of it."""
        try:
            if not self.now.errors:
                self._measure_errors()
            self._probe_all()
            self._write()
        except BaseException:  # an interrupt too; what was measured is not lost
            with suppress(OutputError):
                if self._save():
                    self._tell("probes", probes_of(self.now), self._wanted())
            raise
        return MeasureResult(
            self.output,
            self.now,
            probes_of(self.now),
            self.resumed,
            self.tokens,
            self.pace.seconds,
            tuple(self.notes),
        )

    def _write(self) -> None:
        is_complete = probes_of(self.now) == self._wanted() and bool(self.now.anchors)
        self.now = replace(self.now, floor=rounded(floor_of(self.now)), is_complete=is_complete)
        save_sensitivity(self.now, self.output, overwrite=True, inputs=self.file.files)
        with suppress(FileNotFoundError):
            checkpoint_path(self.output).unlink()

    def _save(self) -> bool:
        """Write a checkpoint, if there is anything to keep."""
        if not self.now.errors:
            return False
        save_sensitivity(self.now, checkpoint_path(self.output), overwrite=True)
        self.saved, self.saved_at = probes_of(self.now), time.monotonic()
        return True

    def _wanted(self) -> int:
        seen = sum(group.kind != _UNSEEN for group in self.groups)
        return seen * len(self.options.levels)

    def _cost(self) -> MeasureCost:
        return MeasureCost(
            sum(group.kind != _UNSEEN for group in self.groups),
            self._wanted() - probes_of(self.now),
            self.now.text.chunks,
            self.options.run.context_length,
        )

    def _tell(
        self, stage: str, done: int, total: int, what: str = "", seconds_left: float | None = None
    ) -> None:
        self.report(MeasureProgress(stage, done, total, self.cost, self.saved, what, seconds_left))

    def _measure_errors(self) -> None:
        self._tell("errors", 0, 1)
        tables = measure_tables(
            self.file,
            self.matrix,
            self.candidates,
            RunSettings(threads=self.options.run.threads),
            self.options.rounding,
            self.moments,
            self.groups,
            sample=self.options.sample,
            progress=lambda step: self._tell(
                "errors", step.done_bytes, step.total_bytes, step.tensor
            ),
        )
        short = {
            name: {type_name: rounded(error) for type_name, error in by_type.items()}
            for name, by_type in tables.items()
        }
        self.now = replace(self.now, errors=short)
        self._save()

    def _todo(self) -> list[tuple[str, str]]:
        """(group, level) of the probes that are to be made, in their order."""
        seen = [group for group in self.now.groups if group.kind != _UNSEEN]
        levels = self.options.levels
        return [
            (seen[index].name, level)
            for index, level in probe_order(seen, levels)
            if levels.index(level) >= len(seen[index].probes)
        ]

    def _probe_all(self) -> None:
        todo = self._todo()
        if not todo and self.now.anchors:
            return
        # All probes of a file run over the same chunks.
        chunks = self.chunks.probing[: self.now.text.chunks]
        self._tell("reference", 0, len(chunks))
        begin = time.monotonic()
        divergences = Divergences(
            self.resident, chunks, lambda count: self._tell("reference", count, len(chunks))
        )
        self.tokens += chunks.size
        if not divergences.is_exact:
            self.notes.append(
                "of each position the 256 most likely tokens were compared, since memory is short"
            )
        prober = Prober(
            self.file,
            self.matrix,
            self.reachable,
            self.resident,
            divergences,
            self.options.rounding,
            self.moments,
        )
        if todo:
            self._choose_chunks(prober, todo, (time.monotonic() - begin) / len(chunks))
        for number, (name, level) in enumerate(todo):
            if self.pace.is_late():
                self.notes.append(
                    f"the time was up after {number} of {_counted(len(todo), 'probe')}; the same "
                    "command with --overwrite makes the others"
                )
                break
            left = (len(todo) - number) * self.pace.probe_seconds
            self._tell("probes", number, len(todo), name, left)
            self._probe(prober, name, level)
            self.pace.count()
            if time.monotonic() - self.saved_at > self.options.save_every:
                self._save()
        else:
            left = len(ANCHOR_BITS) * self.pace.probe_seconds
            self._tell("probes", len(todo), len(todo), "whole choices of types", left)
            count = self.now.text.chunks
            anchors = measure_anchors(self.now, self.reachable, prober, count)
            self.tokens += len(anchors) * count * self.options.run.context_length
            self.now = replace(self.now, anchors=anchors)

    def _choose_chunks(
        self, prober: Prober, todo: Sequence[tuple[str, str]], chunk_seconds: float
    ) -> None:
        """Over how many chunks the probes run: as many as there is time for."""
        count = wanted = self.now.text.chunks
        changing = self._seconds_to_change(prober, todo) if self.pace.is_limited else 0.0
        if not probes_of(self.now):
            count = self.pace.chunks_for(len(todo), wanted, chunk_seconds, changing)
        self.pace.begin(count * chunk_seconds + changing / len(todo))
        if count < wanted:
            self.now = replace(self.now, text=self.chunks.identity(count))
            self.cost = self._cost()
            self.notes.append(
                f"each probe ran over {count} of {wanted} chunks, for which the time sufficed"
            )

    def _seconds_to_change(self, prober: Prober, todo: Sequence[tuple[str, str]]) -> float:
        """What it takes to change the weights for all probes, tried with the first group."""
        groups = {group.name: group for group in self.now.groups}
        sizes = {
            name: sum(self.candidates[tensor].tensor.weights for tensor in group.tensors)
            for name, group in groups.items()
        }
        first = todo[0][0]
        per_weight = {
            level: prober.rehearse(groups[first], level, self.now.errors) / sizes[first]
            for level in dict.fromkeys(level for _, level in todo)
        }
        return sum(sizes[name] * per_weight[level] for name, level in todo)

    def _probe(self, prober: Prober, name: str, level: str) -> None:
        groups = list(self.now.groups)
        index = next(i for i, group in enumerate(groups) if group.name == name)
        group, count = groups[index], self.now.text.chunks
        probe = prober.probe(group, level, self.now.errors, count)
        self.tokens += count * self.options.run.context_length
        probes = sorted((*group.probes, probe), key=lambda each: -each.distance)
        groups[index] = replace(group, probes=tuple(probes))
        self.now = replace(self.now, groups=tuple(groups))


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
