"""Carries a publication out: what is missing or stale, and nothing else."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from apex.errors import OutputError, UsageError
from apex.publishing.caches import cache_steps
from apex.publishing.converting import source_steps
from apex.publishing.finishing import card_step, checksums_step
from apex.publishing.judging import evaluate_steps, report_step
from apex.publishing.making import calibrate_step, quantize_step, verify_step
from apex.publishing.planned import Planned
from apex.publishing.publication import Publication
from apex.publishing.state import State, locked
from apex.publishing.step import STAGES, Advance, Step
from apex.publishing.uploading import upload_step

__all__ = ["Due", "Pipeline"]


@dataclass(frozen=True)
class Due:
    """A step and why it has to run; None where it was done and nothing has changed since."""

    step: Step
    reason: str | None


class Pipeline:
    """All steps from a model to its published folder."""

    def __init__(self, asked: Publication) -> None:
        """Plan everything; nothing is written. Raises ApexErrors of the kind that fits."""
        self.planned = Planned(asked)
        self.steps = _steps(self.planned)

    def due(
        self,
        *,
        begin: str | None = None,
        only: Collection[str] = (),
        skip: Collection[str] = (),
    ) -> list[Due]:
        """Every step, and why it has to run.

        begin: the stage from which on all is made again. only, skip: stages to do alone, or to
        leave out. Raises UsageError for stages that there are not.
        """
        for stage in (*only, *skip, *([] if begin is None else [begin])):
            if stage not in STAGES:
                raise UsageError(f"There is no stage {stage!r}.", f"stages: {', '.join(STAGES)}")
        state = State(self.planned.folder)
        found: list[Due] = []
        used: set[Path] = set()  # by later steps that are due
        for step in reversed(self.steps):
            if step.stage in skip or (only and step.stage not in only):
                continue
            outputs = [path for path in step.outputs if path not in step.scratch or path in used]
            reason = state.reason(step.name, step.needs, outputs)
            if begin is not None and STAGES.index(step.stage) >= STAGES.index(begin):
                reason = reason or "asked for"
            if reason is not None:
                used |= set(step.uses)
            found.append(Due(step, reason))
        return found[::-1]

    def seconds(self, step: Step) -> float | None:
        """How long a step took when it was last done; None where it never was."""
        return State(self.planned.folder).seconds(step.name)

    def check(self, due: Sequence[Due], *, overwrite: bool = False) -> None:
        """Raise OutputError where a file in the way is not ours, or the disk is too small."""
        state = State(self.planned.folder)
        steps = [item.step for item in due if item.reason is not None]
        stages = {path: step.stage for step in steps for path in step.outputs}
        for path in stages:
            if path.exists() and not state.is_ours(path) and not overwrite:
                raise OutputError(
                    f"{path} is not as apex publish left it, or is not its work.",
                    f"move it away, give --overwrite, or leave it with --skip {stages[path]}",
                )
        free, needed = free_bytes(self.planned.folder), sum(step.bytes for step in steps)
        held = sum(p.stat().st_size for p in self.planned.all_shards if p.exists())
        if free is not None and needed - held > free:
            raise OutputError(
                f"{self.planned.folder} has {free / 2**30:.1f} GiB free, and "
                f"{(needed - held) / 2**30:.1f} GiB are needed.",
                "make room, or publish fewer tiers",
            )

    def run(
        self,
        due: Sequence[Due],
        told: Callable[[Step, str], None],
        advance: Advance,
        *,
        keep: bool = True,
    ) -> list[Path]:
        """Do what is due. Raises what the steps raise.

        told: called before each step. keep: False removes what only the steps needed, once all of
        them are done; what went is returned. After whatever ends it, the same call does what is
        left.
        """
        with locked(self.planned.folder):
            state = State(self.planned.folder)
            for item in due:
                if item.reason is None:
                    continue
                step = item.step
                told(step, item.reason)
                begin = time.monotonic()
                state.begin(step.name, step.needs, step.outputs)
                outcome = step.run(advance)
                state.finish(step.name, outcome.outputs, time.monotonic() - begin, outcome.found)
            return [] if keep else self._clear(state)

    def _clear(self, state: State) -> list[Path]:
        if any(item.reason is not None for item in self.due()):
            return []
        scratch = [path for step in self.steps for path in step.scratch]
        found = [path for path in scratch if path.exists() and state.is_ours(path)]
        for path in found:
            path.unlink()
        return found


def free_bytes(folder: Path) -> int | None:
    """Free space where a folder is or will be; None where nobody says."""
    here = folder.absolute()
    while not here.exists() and here != here.parent:
        here = here.parent
    try:
        return shutil.disk_usage(here).free
    except OSError:
        return None


def _steps(planned: Planned) -> list[Step]:
    steps = source_steps(planned)
    calibrated = None
    if planned.matrix is not None:
        calibrated = calibrate_step(planned, planned.matrix)
        steps.append(calibrated)
    quantized = quantize_step(planned, calibrated)
    steps.append(quantized)
    steps += [verify_step(planned, tier, calibrated) for tier in planned.asked.tiers]
    evaluated = evaluate_steps(planned, calibrated)
    steps += evaluated
    steps += cache_steps(planned, evaluated)
    if evaluated:
        steps.append(report_step(planned, evaluated))
    steps.append(checksums_step(planned, quantized))
    steps.append(card_step(planned, steps))
    if planned.asked.upload:
        steps.append(upload_step(planned, steps))
    return steps
