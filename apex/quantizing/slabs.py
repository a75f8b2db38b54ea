"""Slabs: buffers that circulate through reading, quantizing and writing, within a memory bound."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from apex.errors import UsageError
from apex.planning import Plan
from apex.quantizing.jobs import Job, Work, job_row_bytes

__all__ = ["CPU_SLABS", "Bytes", "Slab", "Slabs", "slab_bytes", "slab_room"]

Bytes = npt.NDArray[np.uint8]

# Without GPUs three slabs circulate, so that reading, quantizing and writing each have one.
CPU_SLABS = 3
# A slab gives every thread many parts of 16 Ki weights, so that none waits long for the others.
_WEIGHTS_PER_THREAD = 8 * 64 * 1024
_MIN_SLAB_BYTES = 8 << 20
# What Python, numpy and the extension need beside the slabs, generously.
_BASE_BYTES = 160 << 20
# Conversion buffers of one thread: two of 16 Ki float32, or a row where that is longer.
_THREAD_BYTES = 1 << 20
# Of how many tensors the importance is in memory at a time: slabs under way are of few tensors.
KNOWN_IMPORTANCES = 2
# Of how many experts the objectives are in memory at a time; one that comes back is made again.
KNOWN_OBJECTIVES = 4


@dataclass
class Slab:
    """Room for a job, which is used again and again.

    Attributes:
        source, target: uint8, with room for the rows of any job, and for all that they become.
        results: of the job's targets in turn, the bytes; the source's own where they are copied.
    """

    source: Bytes
    target: Bytes
    job: Job | None = None
    results: list[Bytes] = field(default_factory=list)

    @property
    def work(self) -> Job:
        """The job in it."""
        assert self.job is not None
        return self.job

    @property
    def rows(self) -> Bytes:
        """The source's bytes of the job."""
        return self.source[: self.work.source_bytes]

    def take(self, job: Job) -> None:
        """Make it the room of this job."""
        self.job = job
        self.results = []
        begin = 0
        for target in job.targets:
            size = job.target_bytes(target)
            copied = target.tensor.is_copied
            self.results.append(self.rows if copied else self.target[begin : begin + size])
            begin += size


Slabs = queue.SimpleQueue["Slab | None"]


def slab_bytes(
    plans: Sequence[Plan],
    tensors: Sequence[Work],
    threads: int,
    max_memory: int,
    slabs: int,
    wanted: int = 0,
) -> int:
    """Source and target bytes of a slab, so that all of them keep within ``max_memory``.

    wanted: how large a slab is at best; 0 for what suits the processor. Raises UsageError where the
    smallest slabs are too much.
    """
    header = 2 * sum(file.header_bytes for plan in plans for file in plan.files)
    columns = max(work.tensor.columns for work in tensors)
    thread_bytes = threads * max(_THREAD_BYTES, 8 * columns)
    known = _importance_bytes(plans, tensors) + _objective_bytes(tensors, threads)
    fixed = _BASE_BYTES + header + known + thread_bytes
    row = max(map(job_row_bytes, tensors))
    if max_memory < fixed + slabs * row:
        needed = (fixed + slabs * row + (1 << 20) - 1) >> 20
        raise UsageError(
            f"A memory bound of {max_memory >> 20} MiB is too little: the model needs {needed} MiB "
            f"on {threads} thread{'' if threads == 1 else 's'}.",
            f"--max-memory {needed}M is the least that works",
        )
    wanted = wanted or max(_MIN_SLAB_BYTES, threads * _WEIGHTS_PER_THREAD * 4)
    return max(row, min(wanted, (max_memory - fixed) // slabs))


def _importance_bytes(plans: Sequence[Plan], tensors: Sequence[Work]) -> int:
    """Float32 values of the largest tensors, and as much again while they are made."""
    matrices = len({plan.imatrix for plan in plans if plan.imatrix is not None})
    largest = max(
        (
            4 * target.tensor.importance.experts * target.tensor.importance.columns
            for work in tensors
            for target in work.targets
            if target.tensor.importance is not None
        ),
        default=0,
    )
    return KNOWN_IMPORTANCES * matrices * largest


def _objective_bytes(tensors: Sequence[Work], threads: int) -> int:
    """Two float32 matrices for each expert of the longest rows, and as much to make one.

    A thread compensates 64 rows at a time and has 1 KiB for each of their columns beside.
    """
    columns = max(
        (
            work.tensor.columns
            for work in tensors
            for target in work.targets
            if target.rounding == "compensated"
        ),
        default=0,
    )
    return (KNOWN_OBJECTIVES + 1) * 2 * 4 * columns**2 + threads * columns * (1024 + 4 * 64)


def slab_room(jobs: Sequence[Job]) -> tuple[int, int]:
    """Bytes of source and of targets that have room for any of the jobs."""
    return max(job.source_bytes for job in jobs), max(job.all_target_bytes for job in jobs)
