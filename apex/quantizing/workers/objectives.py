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

Floats = npt.NDArray[np.float32]

# As many rows as the moments of all experts together count for beside an expert's own, and by what
# share the diagonal is raised.
_PRIOR_ROWS = 256
_DAMPING = 0.1


class Objectives:
    """The objectives of experts, each made once while it is at work."""

    def __init__(self, moments: Mapping[int, SecondMoments]) -> None:
        """moments: by the number of the plan that uses them."""
        self._moments = moments
        self._known: OrderedDict[tuple[int, str, int], _core.Objective] = OrderedDict()
        self._lock = threading.Lock()
        self._pooled: tuple[MomentsEntry, tuple[Floats, int]] | None = None

    def of(self, target: Target, expert: int) -> _core.Objective:
        """That of one expert of a tensor. Raises ImatrixError where the file is damaged."""
        reference = target.tensor.moments
        assert reference is not None
        file = self._moments[target.plan]
        key = (id(file), reference.entry, expert)
        with self._lock:
            if key not in self._known:
                entry = file.entry(reference.entry)
                assert entry is not None
                self._known[key] = _objective(entry, expert, self._pooled_of(entry))
                if len(self._known) > KNOWN_OBJECTIVES:
                    self._known.popitem(last=False)
            self._known.move_to_end(key)
            return self._known[key]

    def _pooled_of(self, entry: MomentsEntry) -> tuple[Floats, int]:
        """All experts' moments together, of the entry that was asked for last."""
        if self._pooled is None or self._pooled[0] is not entry:
            self._pooled = entry, entry.pooled()
        return self._pooled[1]


def _objective(entry: MomentsEntry, expert: int, pooled: tuple[Floats, int]) -> _core.Objective:
    sums, rows = entry.sums(expert), int(entry.rows[expert])
    return _core.Objective(
        entry.columns, sums, rows, *pooled, prior_rows=_PRIOR_ROWS, damping=_DAMPING
    )
