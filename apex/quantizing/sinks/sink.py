"""What a sink is: where the bytes of one plan go."""

from __future__ import annotations

from typing import Protocol

from apex.planning import PlannedTensor
from apex.quantizing.jobs import Job
from apex.quantizing.slabs import Bytes

__all__ = ["Sink"]


class Sink(Protocol):
    """Where the bytes of one plan go: ``open``, ``write`` in any order, then one of the others."""

    def open(self) -> None:
        """Make ready for the first byte. Raises OutputError; then nothing is left behind."""

    def write(self, tensor: PlannedTensor, job: Job, source: Bytes, result: Bytes) -> None:
        """Take the rows of a job, as they were and as what the plan made of them.

        Called from several threads; both arrays are used again afterwards. Raises OutputError.
        """

    def commit(self) -> None:
        """All was written: make it appear."""

    def abandon(self) -> None:
        """Remove all that was written and not committed; nothing to do after ``commit``."""
