"""What compensated rounding makes small, for the experts at work."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from apex.errors import UsageError
from apex.files import MomentsEntry, SecondMoments
from apex.quantizing.jobs import Target
from apex.quantizing.slabs import KNOWN_OBJECTIVES

__all__ = ["Objectives"]


class Objectives:
    """The objectives of experts, each made once while it is at work."""

    def __init__(self, moments: Mapping[int, SecondMoments]) -> None:
        """moments: by the number of the plan that uses them."""
        self._moments = moments
        self._known: OrderedDict[tuple[int, str, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, target: Target, expert: int) -> Any:
        """That of one expert of a tensor. Raises ImatrixError where the file is damaged."""
        reference = target.tensor.moments
        assert reference is not None
        file = self._moments[target.plan]
        key = (id(file), reference.entry, expert)
        with self._lock:
            if key not in self._known:
                entry = file.entry(reference.entry)
                assert entry is not None
                self._known[key] = _objective(entry, expert)
                if len(self._known) > KNOWN_OBJECTIVES:
                    self._known.popitem(last=False)
            self._known.move_to_end(key)
            return self._known[key]


def _objective(entry: MomentsEntry, expert: int) -> Any:
    raise UsageError(
        "Compensated rounding is not there yet.", "use --rounding unshrunk, or leave it out"
    )
