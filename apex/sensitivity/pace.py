"""What a measurement can do in the time that it has."""

from __future__ import annotations

import time

__all__ = ["Pace"]


class Pace:
    """Keeps the time of a measurement: what was used, what a probe takes, what is left.

    Attributes:
        started: when the measurement began, as ``time.monotonic`` gives it.
        probe_seconds: what a probe takes, estimated.
    """

    def __init__(self, limit: float | None) -> None:
        """limit: seconds from now on; None: no limit."""
        self.started = time.monotonic()
        self.probe_seconds = 0.0
        self._limit = limit
        self._begun = self.started
        self._made = 0

    @property
    def seconds(self) -> float:
        """Since the measurement began."""
        return time.monotonic() - self.started

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit."""
        return self._limit is not None

    def chunks_for(self, probes: int, chunks: int, chunk_seconds: float, changing: float) -> int:
        """Over how many chunks, at least 1, all probes can run in the time that is left.

        chunks: that are wanted.
        chunk_seconds: what the model takes for one.
        changing: seconds that it takes to change the weights for all probes, and back.
        """
        if self._limit is None:
            return chunks
        left = self._limit - self.seconds - changing
        return max(1, min(chunks, int(left / max(probes * chunk_seconds, 1e-9))))

    def begin(self, probe_seconds: float) -> None:
        """The first probe begins, and is expected to take so long."""
        self.probe_seconds = probe_seconds
        self._begun = time.monotonic()

    def count(self) -> None:
        """A probe was made."""
        self._made += 1
        self.probe_seconds = (time.monotonic() - self._begun) / self._made

    def is_late(self) -> bool:
        """Whether the time does not suffice for another probe."""
        return self._limit is not None and self.seconds + self.probe_seconds > self._limit
