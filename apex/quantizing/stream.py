"""The threads of a run: readers fill slabs, workers quantize them, writers hand them to sinks.

Slabs circulate, so that every stage always has some to work on, and memory stays bounded. Where
each byte goes is known from the plan, so slabs may overtake each other.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from apex import _core
from apex.quantizing.jobs import Job
from apex.quantizing.result import Progress, Timings
from apex.quantizing.sinks import Sink
from apex.quantizing.slabs import Slab, Slabs, slab_room
from apex.quantizing.workers import Worker
from apex.sources import Source

__all__ = ["Stream"]


class Stream:
    """One run. Any thread that fails stops the others; its error is raised by ``run``."""

    def __init__(
        self,
        source: Source,
        jobs: Sequence[Job],
        workers: Sequence[Worker],
        timings: Timings,
        *,
        slabs: int,
        helpers: int = 1,
        is_pinned: bool = False,
    ) -> None:
        """Take the memory for all slabs.

        slabs: how many at most. helpers: how many threads read, and how many write. is_pinned: in
        memory that GPUs can copy; raises _core.DeviceError where there is too little of it.
        """
        self.memory = 0
        self._source = source
        self._workers = workers
        self._timings = timings
        self._failure: BaseException | None = None
        self._jobs = iter(jobs)
        self._jobs_lock = threading.Lock()
        self._left = Counter(job.tensor.name for job in jobs)
        self._count = len(jobs)
        self._total = sum(job.source_bytes for job in jobs)
        self._helpers = helpers
        self._free: Slabs = queue.SimpleQueue()
        self._read: Slabs = queue.SimpleQueue()
        self._quantized: Slabs = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        room = slab_room(jobs)
        for _ in range(min(slabs, len(jobs))):
            rows, target = (
                _core.host_memory(size) if is_pinned else np.empty(size, np.uint8) for size in room
            )
            self._free.put(Slab(rows, target))
            self.memory += sum(room)

    def run(self, sinks: Sequence[Sink], progress: Callable[[Progress], None] | None) -> None:
        """Carry all jobs out into the sinks, by the numbers of their plans; commit nothing."""
        threads = [
            *(self._thread("read", self._read_all) for _ in range(self._helpers)),
            *(self._thread("write", self._write_all, sinks) for _ in range(self._helpers)),
            *(
                self._thread("quantize", worker.run, self._read, self._quantized.put)
                for worker in self._workers
            ),
        ]
        try:
            for thread in threads:
                thread.start()
            self._watch(progress)
        except BaseException as error:  # an interrupt may come while they start
            self._stop(error)
            raise
        finally:
            for slabs in (self._free, self._read, self._quantized):
                slabs.put(None)
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        if self._failure is not None:
            raise self._failure

    def _thread(self, name: str, work: Callable[..., None], *arguments: object) -> threading.Thread:
        def run() -> None:
            try:
                work(*arguments)
            except BaseException as error:  # raised again by run
                self._stop(error)

        return threading.Thread(target=run, name=name)

    def _stop(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        for slabs in (self._free, self._read, self._quantized):
            slabs.put(None)
        self._events.put(None)

    def _watch(self, progress: Callable[[Progress], None] | None) -> None:
        """Until every job is written."""
        done = tensors = 0
        count = len(self._left)
        for _ in range(self._count):
            job = self._events.get()
            if job is None:
                return
            done += job.source_bytes
            self._left[job.tensor.name] -= 1
            tensors += self._left[job.tensor.name] == 0
            if progress is not None:
                progress(Progress(done, self._total, job.tensor.name, tensors, count))

    def _next(self, slabs: Slabs) -> Slab | None:
        slab = slabs.get()
        if slab is None or self._failure is not None:
            slabs.put(None)  # for the other threads
            return None
        return slab

    def _read_all(self) -> None:
        while (slab := self._next(self._free)) is not None:
            with self._jobs_lock:
                job = next(self._jobs, None)
            if job is None:
                self._free.put(slab)
                return
            slab.take(job)
            with self._timings.measure("reading"):
                self._source.read(job.tensor, job.first_row, slab.rows.data)
            self._read.put(slab)

    def _write_all(self, sinks: Sequence[Sink]) -> None:
        while (slab := self._next(self._quantized)) is not None:
            job = slab.work
            with self._timings.measure("writing"):
                for target, result in zip(job.targets, slab.results, strict=True):
                    for number, tensor in target.outputs:
                        sinks[number].write(tensor, job, slab.rows, result)
            self._free.put(slab)
            self._events.put(job)
