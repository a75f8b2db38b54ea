"""Measures how far the quantized weights are from what they were, and keeps nothing else."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from apex import _core
from apex.files import SecondMoments
from apex.planning import PlannedTensor
from apex.quantizing.jobs import Job, Target
from apex.quantizing.slabs import Bytes
from apex.quantizing.workers import Importances
from apex.types import TYPES
from apex.verification import OutputErrors

__all__ = ["ErrorSink", "MeasuredError", "Outputs"]


@dataclass
class MeasuredError:
    """Sums over the weights of one tensor, in binary64.

    Attributes:
        squared_error, squares: of the difference from the source, and of the source.
        weighted_error, weighted_squares: the same, every column times its importance; 0 without.
        by_expert: by expert, (weighted_error, weighted_squares); without importance the plain ones.
        output_error, output_squares: of the outputs over the text that the second moments are of,
            where the tensor is compensated; else 0.
        independent_squares: what output_squares would be if the inputs' columns were independent.
    """

    squared_error: float = 0.0
    squares: float = 0.0
    weighted_error: float = 0.0
    weighted_squares: float = 0.0
    by_expert: dict[int, tuple[float, float]] = field(default_factory=dict)
    output_error: float = 0.0
    output_squares: float = 0.0
    independent_squares: float = 0.0

    @property
    def rmse(self) -> float:
        """Relative root mean squared error: 0 is equal, 1 is as far off as zeros would be."""
        return _root(self.squared_error, self.squares)

    @property
    def weighted_rmse(self) -> float:
        """The same with importance; 0 without."""
        return _root(self.weighted_error, self.weighted_squares)

    def add(self, part: _core.Comparison, expert: int, *, has_importance: bool) -> None:
        """Add what was found in some rows of an expert."""
        self.squared_error += part.error
        self.squares += part.reference
        self.weighted_error += part.weighted_error
        self.weighted_squares += part.weighted_reference
        error, squares = self.by_expert.get(expert, (0.0, 0.0))
        if has_importance:
            pair = (error + part.weighted_error, squares + part.weighted_reference)
        else:
            pair = (error + part.error, squares + part.reference)
        self.by_expert[expert] = pair


class Outputs:
    """Errors of outputs, by the second moments of plans; those of one expert are in memory."""

    def __init__(self, moments: Mapping[int, SecondMoments], threads: int) -> None:
        """moments: by the number of the plan that uses them. threads: 0 for all."""
        self._moments = moments
        self._threads = threads
        self._known: tuple[object, OutputErrors] | None = None
        self._lock = threading.Lock()

    def sums(
        self, plan: int, tensor: PlannedTensor, job: Job, expert: int, source: Bytes, result: Bytes
    ) -> tuple[float, float, float]:
        """As ``OutputErrors.sums``, of an expert's rows.

        expert: counted from the job's first. source, result: its rows. Raises ImatrixError where
        the file is damaged.
        """
        if tensor.moments is None:
            return 0.0, 0.0, 0.0
        entry = self._moments[plan].entry(tensor.moments.entry)
        assert entry is not None
        made = replace(job.tensor, type=tensor.type)
        with self._lock:
            if self._known is None or self._known[0] is not entry:
                self._known = entry, OutputErrors(entry, self._threads)
            return self._known[1].sums(job.expert + expert, made, result, job.tensor, source)


class ErrorSink:
    """Compares the bytes with the source and discards them; a ``Sink``.

    Attributes:
        errors: by tensor name; complete after ``commit``. Tensors that are written as they are
            have no error.
    """

    def __init__(self, importances: Importances, outputs: Outputs, plan: int = 0) -> None:
        """plan: the number of its plan, by which importances and outputs are asked for."""
        self._plan = plan
        self._outputs = outputs
        self.errors: dict[str, MeasuredError] = {}
        self._importances = importances
        self._lock = threading.Lock()

    def open(self) -> None:
        """Nothing is to be made ready."""

    def write(self, tensor: PlannedTensor, job: Job, source: Bytes, result: Bytes) -> None:
        """Compare the rows, expert by expert."""
        if tensor.is_copied or not TYPES[tensor.type].has_dequantizer:
            with self._lock:
                self.errors.setdefault(tensor.name, MeasuredError())
            return
        values = self._importances.of(job, Target(tensor, self._plan, ()))
        before, after = (data.reshape(job.experts, -1) for data in (source, result))
        for expert in range(job.experts):
            part = _core.compare(
                after[expert],
                tensor.type,
                before[expert],
                job.tensor.type,
                (job.rows, job.tensor.columns),
                None if values is None else values[expert],
                1,
            )
            error, squares, independent = self._outputs.sums(
                self._plan, tensor, job, expert, before[expert], after[expert]
            )
            with self._lock:
                found = self.errors.setdefault(tensor.name, MeasuredError())
                found.add(part, job.expert + expert, has_importance=values is not None)
                found.output_error += error
                found.output_squares += squares
                found.independent_squares += independent

    def commit(self) -> None:
        """The errors are complete."""

    def abandon(self) -> None:
        """Forget them."""


def _root(error: float, squares: float) -> float:
    if error == 0:
        return 0.0
    return math.sqrt(error / squares) if squares > 0 else math.inf
