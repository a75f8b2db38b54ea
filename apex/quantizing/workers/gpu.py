"""A GPU as a worker, with the processor behind it."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np

from apex import _core
from apex.errors import DeviceError
from apex.planning import REFERENCE
from apex.quantizing.jobs import Job
from apex.quantizing.result import DeviceUse
from apex.quantizing.slabs import Bytes, Slab, Slabs
from apex.quantizing.workers.processor import Processor
from apex.types import TYPES

__all__ = ["DEVICE_SLOTS", "Gpu", "Limits", "device_limits", "slot_bytes"]

# Slabs under way on a GPU: one comes in, one is quantized, one goes out.
DEVICE_SLOTS = 3


class Limits(TypedDict):
    """The largest job that a GPU will get; of several targets, the sums."""

    source_bytes: int
    target_bytes: int
    importance_values: int
    rows: int
    dequantized_weights: int
    targets: int


def is_for_device(job: Job) -> bool:
    """Whether a GPU has kernels for all that is quantized of the job, if anything is.

    Those round as llama.cpp does.
    """
    quantized = [target for target in job.targets if not target.tensor.is_copied]
    return bool(quantized) and all(
        target.rounding == REFERENCE
        and _core.can_quantize_on_device(job.tensor.type, target.type, target.has_importance)
        for target in quantized
    )


def slot_bytes(limits: Limits) -> int:
    """Memory that one slab takes on a GPU."""
    floats = limits["importance_values"] + limits["rows"] + limits["dequantized_weights"]
    return limits["source_bytes"] + limits["target_bytes"] + 4 * floats


def device_limits(jobs: Sequence[Job]) -> Limits | None:
    """What the jobs ask of a GPU; None if none of them is for one."""
    mine = [job for job in jobs if is_for_device(job)]
    if not mine:
        return None

    def weights(job: Job) -> int:
        if not TYPES[job.tensor.type].is_quantized:
            return 0
        return job.experts * job.rows * job.tensor.columns

    def importance(job: Job) -> int:
        targets = sum(target.has_importance for target in job.targets)
        return targets * job.experts * job.tensor.columns

    return {
        "source_bytes": max(job.source_bytes for job in mine),
        "target_bytes": max(job.all_target_bytes for job in mine),
        "importance_values": max(map(importance, mine)),
        "rows": max(job.experts * job.rows for job in mine),
        "dequantized_weights": max(map(weights, mine)),
        "targets": max(len(job.targets) for job in mine),
    }


class Gpu:
    """One GPU, and the processor for what it does not take; a ``Worker``."""

    def __init__(
        self, device: _core.Device, limits: Limits, processor: Processor, *, is_required: bool
    ) -> None:
        """Reserve memory on the GPU. Raises DeviceError where it cannot be had.

        is_required: if the GPU fails, DeviceError is raised; else the processor goes on.
        """
        try:
            self.quantizer = _core.DeviceQuantizer(device.index, DEVICE_SLOTS, **limits)
        except _core.DeviceError as error:
            raise cannot_use(error) from None
        self.use = DeviceUse(device.index, device.name, DEVICE_SLOTS * slot_bytes(limits))
        self.processor = processor
        self._is_required = is_required
        self._under_way: deque[Slab] = deque()  # the oldest first
        self._submitted = 0
        self._given_up: list[Bytes] = []

    def run(self, work: Slabs, done: Callable[[Slab], None]) -> None:
        """Quantize slabs until None comes.

        A GPU that fails is given up: what it had, and what comes, goes to the processor; or, if it
        is required, DeviceError is raised.
        """
        try:
            self._run_on_device(work, done)
        except _core.DeviceError as error:
            self.use.failure = str(error)
            if self._is_required:
                raise DeviceError(
                    f"The GPU {self.use.index} ({self.use.name}) failed: {error}.",
                    "try again, or leave out --backend cuda to go on with the processor",
                ) from None
            for slab in self._under_way:
                # A copy that is still on its way must not meet the processor's bytes.
                self._given_up.append(slab.target)
                slab.target = np.empty_like(slab.target)
                slab.take(slab.work)
                self.processor.quantize(slab)
                done(slab)
            self.processor.run(work, done)

    def _run_on_device(self, work: Slabs, done: Callable[[Slab], None]) -> None:
        while (slab := self._next(work, done)) is not None:
            if is_for_device(slab.work):
                self._submit(slab)
            else:
                self.processor.quantize(slab)
                done(slab)
        while self._under_way:
            self._finish(done)
        work.put(None)  # for other workers

    def _next(self, work: Slabs, done: Callable[[Slab], None]) -> Slab | None:
        while len(self._under_way) == DEVICE_SLOTS:
            self._finish(done)
        while True:
            try:
                return work.get(block=not self._under_way)
            except queue.Empty:
                self._finish(done)

    def _submit(self, slab: Slab) -> None:
        job = slab.work
        slot = self._submitted % DEVICE_SLOTS
        self._submitted += 1
        self._under_way.append(slab)
        targets = [
            (target.type, self.processor.importances.of(job, target), result)
            for target, result in zip(job.targets, slab.results, strict=True)
            if not target.tensor.is_copied
        ]
        self.quantizer.submit(slot, slab.rows, job.tensor.type, job.shape, targets)

    def _finish(self, done: Callable[[Slab], None]) -> None:
        slab = self._under_way[0]
        outcome = self.quantizer.wait((self._submitted - len(self._under_way)) % DEVICE_SLOTS)
        self._under_way.popleft()
        self.processor.timings.add(
            copying_in=outcome.copying_in,
            computing=outcome.computing,
            copying_out=outcome.copying_out,
        )
        if outcome.is_sound:
            self.use.bytes += slab.work.source_bytes
            self.processor.quantize(slab, only_copied=True)
        else:  # the processor says what is wrong with the weights, and where
            self.processor.quantize(slab)
        done(slab)


def cannot_use(reason: object) -> DeviceError:
    """The error for GPUs that cannot be used from the start."""
    text = str(reason).partition("\n")[0].rstrip(".")
    return DeviceError(
        f"The GPU cannot be used: {text}.",
        "try --max-memory or --device, or leave out --backend cuda",
    )
