"""What compensated rounding makes small, for the experts at work."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.files import MomentsEntry, SecondMoments
from apex.quantizing.jobs import Target
from apex.quantizing.slabs import KNOWN_OBJECTIVES

__all__ = ["Objectives"]

Pooled = tuple[npt.NDArray[np.float32], int]


class Objectives:
    """The objectives of experts, each made once while it is at work."""

    def __init__(self, moments: Mapping[int, SecondMoments], threads: int = 0) -> None:
        """moments: by the number of the plan that uses them. threads: 0 for all."""
        self._moments = moments
        self._threads = threads
        self._known: OrderedDict[tuple[int, str, int], _core.Objective] = OrderedDict()
        self._pooled: tuple[MomentsEntry, Pooled] | None = None
        self._lock = threading.Lock()

    def of(self, target: Target, expert: int) -> _core.Objective:
        """That of one expert of a tensor. Raises ImatrixError where the file is damaged."""
        assert target.tensor.moments is not None
        return self.of_entry(target.plan, target.tensor.moments.entry, expert)

    def of_entry(self, plan: int, name: str, expert: int) -> _core.Objective:
        """The same, by the name of the entry in the plan's file."""
        file = self._moments[plan]
        key = (id(file), name, expert)
        with self._lock:
            if key not in self._known:
                entry = file.entry(name)
                assert entry is not None
                self._known[key] = self._objective(entry, expert)
                if len(self._known) > KNOWN_OBJECTIVES:
                    self._known.popitem(last=False)
            self._known.move_to_end(key)
            return self._known[key]

    def _objective(self, entry: MomentsEntry, expert: int) -> _core.Objective:
        """The moments of an expert, drawn to those of all experts of its tensor."""
        if self._pooled is None or self._pooled[0] is not entry:
            self._pooled = entry, entry.pooled()
        pooled, pooled_rows = self._pooled[1]
        return _core.Objective(
            entry.columns,
            entry.sums(expert),
            float(entry.rows[expert]),
            pooled,
            float(pooled_rows),
            threads=self._threads,
        )
