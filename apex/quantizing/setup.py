"""Prepares a run: which workers, how large their slabs, and the memory for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from apex import _core
from apex.errors import DeviceError, UsageError
from apex.gpu import choose_gpus
from apex.planning import REFERENCE, Plan
from apex.quantizing.jobs import Job, Work, split
from apex.quantizing.result import Timings
from apex.quantizing.settings import RunSettings
from apex.quantizing.slabs import CPU_SLABS, slab_bytes
from apex.quantizing.stream import Stream
from apex.quantizing.workers import (
    Gpu,
    Importances,
    Objectives,
    Processor,
    Worker,
    registered_workers,
)
from apex.quantizing.workers.gpu import (
    DEVICE_SLOTS,
    Limits,
    cannot_use,
    device_limits,
    slot_bytes,
)
from apex.sources import Source

__all__ = ["Setup", "set_up"]

# With GPUs: how large a slab is at best, and how many threads read at most, and how many write. One
# thread copies from the page cache far more slowly than a GPU takes.
_DEVICE_SLAB_BYTES = 48 << 20
_MOST_HELPERS = 6
# Of a GPU's free memory, what is left to others.
_DEVICE_RESERVE = 256 << 20
_LEAST_SLAB_BYTES = 4096


@dataclass(frozen=True)
class Setup:
    """A run that only has to be started.

    Attributes:
        stream: the stream, with its memory.
        workers: who quantizes.
        notes: why they are not those that one would expect; one sentence each.
    """

    stream: Stream
    workers: tuple[Worker, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Run:
    source: Source
    plans: Sequence[Plan]
    tensors: Sequence[Work]
    settings: RunSettings
    processor: Processor

    def slab_bytes(self, slabs: int, wanted: int = 0) -> int:
        return slab_bytes(
            self.plans,
            self.tensors,
            self.processor.threads,
            self.settings.max_memory,
            slabs,
            wanted,
        )


def set_up(
    source: Source,
    plans: Sequence[Plan],
    tensors: Sequence[Work],
    settings: RunSettings,
    timings: Timings,
    importances: Importances,
    objectives: Objectives,
) -> Setup:
    """Take workers and memory. Raises UsageError, and DeviceError where a GPU is required."""
    threads = settings.threads or _core.available_threads()
    processor = Processor(threads, timings, importances, objectives)
    run = _Run(source, plans, tensors, settings, processor)
    make = registered_workers(settings.backend)
    if make is not None:
        return _on_processor(run, make(processor))
    chosen = choose_gpus(settings.backend, settings.devices)
    if not chosen:
        return _on_processor(run, [processor])
    is_required = settings.backend == "cuda"
    try:
        setup = _on_gpus(run, chosen, is_required=is_required)
    except (DeviceError, UsageError) as error:
        if is_required:
            raise
        note = f"The processor quantizes instead of a GPU: {error.message}"
        return _on_processor(run, [processor], (note,))
    return replace(setup or _on_processor(run, [processor]), notes=_note_rounding(tensors))


def _note_rounding(tensors: Sequence[Work]) -> tuple[str, ...]:
    """That GPUs leave some tensors to the processor, and why."""
    left = sum(any(target.rounding != REFERENCE for target in work.targets) for work in tensors)
    if not left:
        return ()
    are = "1 tensor that is" if left == 1 else f"{left} tensors that are"
    return (f"The processor quantizes {are} not rounded as llama.cpp does: GPUs cannot do that.",)


def _on_processor(run: _Run, workers: Sequence[Worker], notes: tuple[str, ...] = ()) -> Setup:
    slabs = CPU_SLABS + len(workers) - 1
    jobs = split(run.tensors, run.slab_bytes(slabs))
    stream = Stream(run.source, jobs, workers, run.processor.timings, slabs=slabs)
    return Setup(stream, tuple(workers), notes)


def _on_gpus(run: _Run, chosen: Sequence[_core.Device], *, is_required: bool) -> Setup | None:
    """A stream through these GPUs; None if there is no work for them.

    Slabs shrink until they fit the GPU with the least memory. Raises DeviceError where not even the
    smallest do, or where memory cannot be had.
    """
    helpers = max(1, min(_MOST_HELPERS, run.processor.threads // 2))
    slabs = DEVICE_SLOTS * len(chosen) + 2 * helpers
    fitting = _fitting_jobs(run, chosen, slabs)
    if fitting is None:
        return None
    jobs, limits = fitting
    timings = run.processor.timings
    workers = [Gpu(gpu, limits, run.processor, is_required=is_required) for gpu in chosen]
    try:
        stream = Stream(
            run.source, jobs, workers, timings, slabs=slabs, helpers=helpers, is_pinned=True
        )
    except _core.DeviceError as error:
        raise cannot_use(error) from None
    return Setup(stream, tuple(workers))


def _fitting_jobs(
    run: _Run, chosen: Sequence[_core.Device], slabs: int
) -> tuple[list[Job], Limits] | None:
    wanted = _DEVICE_SLAB_BYTES
    least = min(device.free_memory for device in chosen)
    while True:
        size = run.slab_bytes(slabs, wanted)
        jobs = split(run.tensors, size)
        limits = device_limits(jobs)
        if limits is None:
            return None
        need = DEVICE_SLOTS * slot_bytes(limits) + _DEVICE_RESERVE
        if need <= least:
            return jobs, limits
        if size > wanted or wanted < _LEAST_SLAB_BYTES:
            raise cannot_use(
                f"{least >> 20} MiB of its memory are free, and the model's longest rows need "
                f"{need >> 20} MiB"
            )
        wanted //= 2
