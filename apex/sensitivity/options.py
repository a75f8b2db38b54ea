"""How a model is measured, how far that is, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apex import _core
from apex.errors import UsageError
from apex.inference import RunOptions
from apex.planning import REFERENCE
from apex.sensitivity.anchors import ANCHOR_BITS
from apex.sensitivity.data import Sensitivity
from apex.sensitivity.errors import CANDIDATES

__all__ = ["MeasureCost", "MeasureOptions", "MeasureProgress", "MeasureResult"]


@dataclass(frozen=True)
class MeasureOptions:
    """What is measured, and how long.

    Attributes:
        run: how the model is run.
        chunks: over how many a probe runs.
        levels: the types that every group is quantized to, one probe each.
        detail: how finely tensors are grouped, one of ``groups.DETAILS``.
        sample: weights of one tensor whose rows are sampled for its errors; 0 for all.
        seconds: how long it may take; fewer chunks are run where that is too short for all, and
            where it is too short even so, the least important probes are not made. None: no limit.
        resident: a file of the same model to run in its place, such as a Q8_0 one that fits into
            memory; None for the model itself.
        save_every: seconds between checkpoints.
        rounding: as the plans that will be fitted are asked for it.
        second_moments: the file for compensated rounding, or None.
    """

    run: RunOptions = field(default_factory=RunOptions)
    chunks: int = 4
    levels: tuple[str, ...] = ("Q3_K", "IQ2_S")
    detail: str = "kind"
    sample: int = 1 << 20
    seconds: float | None = None
    resident: Path | None = None
    save_every: float = 20.0
    rounding: str = REFERENCE
    second_moments: Path | None = None

    def __post_init__(self) -> None:
        if self.chunks < 1:
            raise UsageError("The number of chunks must be at least 1.")
        if self.sample < 0:
            raise UsageError("The number of weights to sample must not be negative.", "0 takes all")
        if self.seconds is not None and self.seconds <= 0:
            raise UsageError("The time must be more than nothing.", "as in --time 30m")
        if not self.levels:
            raise UsageError("At least one level is needed.", "as in --levels Q3_K,IQ2_S")
        if len(set(self.levels)) < len(self.levels):
            raise UsageError("A level is given twice.", "name each type once")
        for level in self.levels:
            if level not in CANDIDATES:
                raise UsageError(
                    f"There is no level {level}.", f"choose from {', '.join(CANDIDATES)}"
                )

    def settings(self) -> dict[str, Any]:
        """What a file says of how it was measured, for people; the number of threads changes
        nothing."""
        how = self.run.to_dict()
        del how["threads"]
        return {
            "levels": list(self.levels),
            "chunks": self.chunks,
            "detail": self.detail,
            "sample": self.sample,
            "run": how,
            "apex": _core.__version__,
        }


@dataclass(frozen=True)
class MeasureCost:
    """What a measurement has to run.

    Attributes:
        groups: that are measured.
        probes: that are still to be made when it begins.
        chunks: over which each of them runs; fewer than wanted where the time is too short.
        context_length: tokens of a chunk.
    """

    groups: int
    probes: int
    chunks: int
    context_length: int

    @property
    def tokens(self) -> int:
        """That are run: by all probes, by the anchors, and once by the unchanged model."""
        runs = self.probes + len(ANCHOR_BITS) + 1 if self.probes else 0
        return runs * self.chunks * self.context_length


@dataclass(frozen=True)
class MeasureProgress:
    """How far a measurement is; given to the progress callback.

    Attributes:
        stage: "errors" of tensors, the "reference" that the unchanged model gives, or "probes".
        done, total: in bytes, chunks or probes.
        cost: what is to be run altogether.
        saved: probes that are in the checkpoint.
        what: the tensor or the group at work.
        seconds_left: until all is done, of probes; None before that is known.
    """

    stage: str
    done: int
    total: int
    cost: MeasureCost
    saved: int = 0
    what: str = ""
    seconds_left: float | None = None


@dataclass(frozen=True)
class MeasureResult:
    """What a measurement found.

    Attributes:
        path: the file that was written.
        sensitivity: what is in it.
        probes: how many were made, those of an earlier run included.
        resumed: how many an earlier run had made.
        tokens: that were run now.
        seconds: that it took now.
        notes: what the user should know, one sentence each.
    """

    path: Path
    sensitivity: Sensitivity
    probes: int
    resumed: int
    tokens: int
    seconds: float
    notes: tuple[str, ...] = ()
