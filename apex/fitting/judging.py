"""Measures what was chosen, on the resident model and over chunks that it was not chosen by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from apex.calibration import Text
from apex.errors import UsageError
from apex.files import ImportanceMatrix, SecondMoments
from apex.inference import Divergences, ResidentModel, RunOptions
from apex.planning import REFERENCE, Plan
from apex.sensitivity import Sensitivity
from apex.sensitivity.chunks import Chunks, select_chunks
from apex.sensitivity.errors import candidates_of
from apex.sensitivity.probing import Prober
from apex.sensitivity.residence import require_same_weights, resident_file
from apex.sources import ModelFile
from apex.types import tensor_bytes

__all__ = ["Judge", "Judged", "changed_types", "difference"]

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """What was measured of a choice of types. KL divergence is in nats.

    Attributes:
        kl, error: its mean over positions, and the standard error of that over chunks.
        high: at one position in a thousand it is more.
        most: the largest.
        values: float64 (chunks, positions), all of it.
    """

    kl: float
    error: float
    high: float
    most: float
    values: Values


class Judge:
    """A resident model, to be made what a plan would make of it, and measured.

    Attributes:
        chunks: how many chunks it runs over.
        is_apart: whether it is known that none of them was measured over.
    """

    def __init__(
        self,
        model: ModelFile,
        matrix: ImportanceMatrix | None,
        sensitivity: Sensitivity,
        texts: Sequence[Text],
        run: RunOptions,
        *,
        chunks: int,
        resident: Path | None = None,
        rounding: str = REFERENCE,
        second_moments: SecondMoments | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Load the model, and run it over chunks of the texts that were not measured over.

        Where all were, over those.

        texts: as for ``measure``; without any, the built-in set. rounding, second_moments: as plans
        are asked for them. progress: called with how many of the chunks were run, and how many
        there are. Raises ModelFileError, RunError, DataError, and UsageError where the resident
        file is of another model or no text has a chunk.
        """
        file = resident_file(model, resident)
        require_same_weights(file, model, sensitivity.model)
        self._resident = ResidentModel(file, run)
        selected = select_chunks(
            self._resident.model,
            texts,
            run.context_length,
            _probed(sensitivity),
            chunks,
        )
        tokens = selected.apart if len(selected.apart) else selected.probing
        self.chunks = len(tokens)
        self.is_apart = len(selected.apart) > 0 and _is_known_apart(selected, sensitivity)
        self._start, self._stop = 0, len(tokens)
        self._candidates = {
            name: candidate
            for name, candidate in candidates_of(model, matrix, rounding, second_moments).items()
            if self._resident.holds(name)
        }
        report = progress or (lambda _done, _all: None)
        self._divergences = Divergences(
            self._resident, tokens, lambda done: report(done, self.chunks)
        )
        self._prober = Prober(
            model,
            matrix,
            self._candidates,
            self._resident,
            self._divergences,
            rounding,
            second_moments,
        )

    def halves(self) -> tuple[Judge, Judge]:
        """The same resident model over the first half of the chunks, and over the second.

        Raises UsageError where there is only one chunk.
        """
        if self.chunks < 2:
            raise UsageError(
                "To correct predictions and to judge that takes two chunks, and there is only one.",
                "give more text, or another --check-text",
            )
        first, second = copy(self), copy(self)
        middle = (self._start + self._stop) // 2
        first._stop = second._start = middle
        first.chunks, second.chunks = middle - self._start, self._stop - middle
        return first, second

    @contextmanager
    def session(self) -> Iterator[None]:
        """Within it, weights stay changed from one measurement to the next; then all are given
        back."""
        try:
            yield
        finally:
            self._prober.restore()

    def measure(self, types: Mapping[str, str]) -> Judged:
        """The model with tensors of these types, as it would run from a file of them.

        Raises UsageError where the resident file has no room for a type, ModelFileError, RunError.
        """
        known = {name: kind for name, kind in types.items() if name in self._candidates}
        for name, kind in known.items():
            self._require_room(name, kind)
        self._prober.become(known)
        return _judged(self._prober.measure(self._start, self._stop))

    def measure_plan(self, plan: Plan) -> Judged:
        """The model as a plan would write it."""
        return self.measure(changed_types(plan))

    def _require_room(self, name: str, kind: str) -> None:
        bytes_wanted = tensor_bytes(kind, self._candidates[name].tensor.shape)
        if bytes_wanted > self._resident.room(name):
            there = self._resident.file.reference.name
            raise UsageError(
                f"{name} is {self._resident.type(name)} in {there}, which has no room for {kind}.",
                "run a larger file of the model with --resident, or leave out measuring with "
                "--no-check",
            )


def changed_types(plan: Plan) -> dict[str, str]:
    """By name, the types of the tensors that a plan does not copy."""
    return {tensor.name: tensor.type for tensor in plan.tensors if not tensor.is_copied}


def _probed(sensitivity: Sensitivity) -> int:
    """How many chunks were chosen to be measured over; fewer may have been run."""
    wanted = sensitivity.settings.get("chunks")
    return wanted if isinstance(wanted, int) else sensitivity.text.chunks


def _is_known_apart(selected: Chunks, sensitivity: Sensitivity) -> bool:
    """Whether what is left out is what was measured over, or that was of other texts."""
    measured = sensitivity.text
    return (
        not set(selected.names).intersection(measured.names)
        or selected.identity(measured.chunks).digest == measured.digest
    )


def _judged(values: Values) -> Judged:
    by_chunk = values.mean(axis=1)
    return Judged(
        float(values.mean()),
        _standard_error(by_chunk),
        float(np.quantile(values, 0.999)),
        float(values.max()),
        values,
    )


def difference(first: Judged, second: Judged) -> tuple[float, float]:
    """By how much the first has more KL divergence, over the same positions, and its error."""
    by_chunk = (first.values - second.values).mean(axis=1)
    return float(by_chunk.mean()), _standard_error(by_chunk)


def _standard_error(by_chunk: Values) -> float:
    count = len(by_chunk)
    return float(by_chunk.std(ddof=1)) / math.sqrt(count) if count > 1 else 0.0
