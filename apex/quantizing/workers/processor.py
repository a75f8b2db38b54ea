"""The processor as a worker."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.errors import DataError
from apex.files import ImportanceMatrix
from apex.quantizing.jobs import Job, Target
from apex.quantizing.result import Timings
from apex.quantizing.rounding import round_rows
from apex.quantizing.slabs import KNOWN_IMPORTANCES, Bytes, Slab, Slabs
from apex.quantizing.workers.objectives import Objectives
from apex.types import TYPES

__all__ = ["Importances", "Processor"]


class Importances:
    """The importance of tensors at work, made once per tensor."""

    def __init__(self, matrices: Mapping[int, ImportanceMatrix]) -> None:
        """matrices: by the number of the plan that uses one."""
        self._matrices = matrices
        self._room = KNOWN_IMPORTANCES * len(set(map(id, matrices.values())))
        self._known: OrderedDict[tuple[int, str], npt.NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, job: Job, target: Target) -> npt.NDArray[np.float32] | None:
        """float32 (experts, columns) of the job, or None."""
        reference = target.tensor.importance
        if reference is None:
            return None
        matrix = self._matrices[target.plan]
        key = (id(matrix), reference.entry + "\0" + target.tensor.name)
        with self._lock:
            if key not in self._known:
                self._known[key] = reference.values(matrix)
                if len(self._known) > self._room:
                    self._known.popitem(last=False)
            values = self._known[key]
        return values[job.expert : job.expert + job.experts]


class Processor:
    """The processor with its threads; a ``Worker``."""

    def __init__(
        self, threads: int, timings: Timings, importances: Importances, objectives: Objectives
    ) -> None:
        self.threads = threads
        self.timings = timings
        self.importances = importances
        self._objectives = objectives

    def run(self, work: Slabs, done: Callable[[Slab], None]) -> None:
        """Quantize slabs until None comes."""
        while (slab := work.get()) is not None:
            self.quantize(slab)
            done(slab)
        work.put(None)  # for other workers

    def quantize(self, slab: Slab, *, only_copied: bool = False) -> None:
        """Quantize one slab, or check it where it is written as it is. Raises DataError.

        only_copied: leave out the targets that are quantized.
        """
        job = slab.work
        with self.timings.measure("quantizing"):
            for target, result in zip(job.targets, slab.results, strict=True):
                if only_copied and not target.tensor.is_copied:
                    continue
                try:
                    self._make(slab, job, target, result)
                except _core.BadDataError as error:
                    raise _data_error(job, error) from None

    def _make(self, slab: Slab, job: Job, target: Target, result: Bytes) -> None:
        if not target.tensor.is_copied:
            round_rows(
                slab.rows,
                job.tensor.type,
                job.shape,
                target.type,
                self.importances.of(job, target),
                target.rounding,
                result,
                self.threads,
                lambda expert: self._objectives.of(target, job.expert + expert),
            )
        elif TYPES[target.type].has_dequantizer:
            _core.check(slab.rows, target.type, shape=job.shape, threads=self.threads)


def _data_error(job: Job, error: _core.BadDataError) -> DataError:
    tensor = job.tensor
    row = job.first_row + error.row
    rows = tensor.rows // tensor.experts
    where = f"row {row % rows}"
    if tensor.experts > 1:
        where = f"expert {row // rows}, {where}"
    return DataError(
        f"{tensor.name}: {error} ({where}).",
        "the model file is damaged, or was converted with an overflow",
    )
