"""What a calibration collects, how far it is, and what it has collected."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apex.calibration.coverage import Coverage
from apex.errors import UsageError
from apex.inference import RunOptions

__all__ = ["CalibrationProgress", "CalibrationResult", "CollectOptions", "MomentsPlan"]


@dataclass(frozen=True)
class CollectOptions:
    """What is collected, and how long.

    Attributes:
        run: how the model is run.
        chunks: how many to run at most; None for all that the texts have.
        skip_chunks: how many to leave out at the start of each text.
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
            raise UsageError("The coverage to reach must lie between 0 and 1.", "as in 0.99")
        if self.chunks is not None and self.chunks < 1:
            raise UsageError("The number of chunks must be at least 1.")
        if self.skip_chunks < 0:
            raise UsageError("The number of chunks to skip must not be negative.")
        for name in ("min_tokens", "save_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1.")

    @property
    def extent(self) -> dict[str, Any]:
        """What decides how much is collected; low digits aside, this makes an importance matrix."""
        return {
            "context_length": self.run.context_length,
            "chunks": self.chunks,
            "skip_chunks": self.skip_chunks,
            "output_matrix": self.output_matrix,
            "mtp": self.mtp,
            "until_coverage": self.until_coverage,
            "min_tokens": None if self.until_coverage is None else self.min_tokens,
        }


@dataclass(frozen=True)
class MomentsPlan:
    """What collecting second moments takes.

    Attributes:
        path: the file.
        bytes: how large it is.
        passes: how often the texts are run, finished passes of an earlier run left out.
        entries: how many tensors have sums of their own.
    """

    path: Path
    bytes: int
    passes: int
    entries: int


@dataclass(frozen=True)
class CalibrationProgress:
    """How far a run is.

    Given to the progress callback once before the first chunk, after every group of chunks, and
    after every checkpoint, the one that an interrupt leaves included.

    Attributes:
        chunks_done, chunks: of those that may be run; resumed ones included. Where second moments
            take several passes, those of all passes.
        chunks_saved: how many are in the checkpoint, from which the same call would go on.
        tokens_per_second: in this run; 0 before the first chunk.
        seconds_left: until all chunks are done. Before the first chunk it is an estimate, from a
            batch that is run for it alone; None where there is too little to do to be worth that.
        coverage: of the routed experts so far; None for a model without any.
        second_moments: what collecting them takes; None where they are not collected.
    """

    chunks_done: int
    chunks: int
    chunks_saved: int
    tokens_per_second: float
    seconds_left: float | None
    coverage: Coverage | None
    second_moments: MomentsPlan | None = None


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
        second_moments: what was written of them; None where they were not collected.
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
    second_moments: MomentsPlan | None = None
