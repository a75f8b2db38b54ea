"""The threads of a run: readers fill slabs, workers quantize them, writers put them in their place.

Slabs circulate, so that every stage always has some to work on, and memory stays bounded. Where
each byte goes is known from the plan, so slabs may overtake each other.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

from apex import _core
from apex.errors import ModelFileError
from apex.files import OutputSet
from apex.planning import Plan
from apex.quantizing.pieces import Piece, Slab, slab_room
from apex.quantizing.result import Progress, Timings
from apex.quantizing.workers import Gpu, Processor, Slabs

__all__ = ["Stream"]


class Stream:
    """One run. Any thread that fails stops the others; its error is raised by ``run``."""

    def __init__(
        self,
        todo: Plan,
        pieces: Sequence[Piece],
        slabs: int,
        processor: Processor,
        gpus: Sequence[Gpu],
        helpers: int,
        is_gpu_required: bool,
    ) -> None:
        """Take the memory for all slabs, which GPUs can copy where there are any.

        helpers: how many threads read, and how many write. Raises _core.DeviceError where there is
        too little of that memory.
        """
        self.plan = todo
        self.timings: Timings = processor.timings
        self.failure: BaseException | None = None
        self._pieces = iter(pieces)
        self._pieces_lock = threading.Lock()
        self._left = Counter(piece.tensor.name for piece in pieces)
        self._count = len(pieces)
        self._processor = processor
        self.gpus = tuple(gpus)
        self._is_gpu_required = is_gpu_required
        self._helpers = helpers
        self._free: Slabs = queue.SimpleQueue()
        self._read: Slabs = queue.SimpleQueue()
        self._quantized: Slabs = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Piece | None] = queue.SimpleQueue()
        room = slab_room(list(pieces))
        slabs = min(slabs, len(pieces))
        self.memory = slabs * sum(room)
        for _ in range(slabs):
            source, target = (
                _core.host_memory(size) if gpus else np.empty(size, np.uint8) for size in room
            )
            self._free.put(Slab(source, target))

    def run(self, paths: tuple[Path, ...], progress: Callable[[Progress], None] | None) -> None:
        """Write the files."""
        with OutputSet(paths) as output:
            for file, planned in zip(output.files, self.plan.files, strict=True):
                file.write(planned.header)
                file.extend(planned.bytes)
            threads = [
                *(self._thread("read", self._read_all) for _ in range(self._helpers)),
                *(self._thread("write", self._write_all, output) for _ in range(self._helpers)),
                *(self._thread("gpu", self._run_gpu, gpu) for gpu in self.gpus),
            ]
            if not self.gpus:
                threads.append(self._thread("quantize", self._run_processor))
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
            if self.failure is not None:
                raise self.failure
            begin = time.perf_counter()
            output.commit()
            self.timings.add(syncing=time.perf_counter() - begin)

    def _thread(self, name: str, work: Callable[..., None], *arguments: object) -> threading.Thread:
        def run() -> None:
            try:
                work(*arguments)
            except BaseException as error:  # raised again by run
                self._stop(error)

        return threading.Thread(target=run, name=name)

    def _stop(self, error: BaseException) -> None:
        if self.failure is None:
            self.failure = error
        for slabs in (self._free, self._read, self._quantized):
            slabs.put(None)
        self._events.put(None)

    def _watch(self, progress: Callable[[Progress], None] | None) -> None:
        """Until every piece is written."""
        done = tensors = 0
        for _ in range(self._count):
            piece = self._events.get()
            if piece is None:
                return
            done += piece.source_bytes
            self._left[piece.tensor.name] -= 1
            tensors += self._left[piece.tensor.name] == 0
            if progress is not None:
                count = len(self.plan.tensors)
                name = piece.tensor.name
                progress(Progress(done, self.plan.model.bytes, name, tensors, count))

    def _next(self, slabs: Slabs) -> Slab | None:
        slab = slabs.get()
        if slab is None or self.failure is not None:
            slabs.put(None)  # for the other threads
            return None
        return slab

    def _read_all(self) -> None:
        with ExitStack() as stack:
            files = [
                stack.enter_context(path.open("rb", buffering=0)) for path in self.plan.model.files
            ]
            for file in files:
                _advise_sequential(file)
            while (slab := self._next(self._free)) is not None:
                with self._pieces_lock:
                    piece = next(self._pieces, None)
                if piece is None:
                    self._free.put(slab)
                    return
                slab.take(piece)
                number = piece.tensor.source.file
                with self.timings.measure("reading"):
                    path = self.plan.model.files[number]
                    _read_exactly(files[number], piece.source_offset, slab.rows.data, path)
                self._read.put(slab)

    def _run_processor(self) -> None:
        self._processor.run(self._read, self._quantized.put)

    def _run_gpu(self, gpu: Gpu) -> None:
        gpu.run(self._read, self._quantized.put, is_required=self._is_gpu_required)

    def _write_all(self, output: OutputSet) -> None:
        while (slab := self._next(self._quantized)) is not None:
            piece = slab.work
            with self.timings.measure("writing"):
                output.files[piece.file].write_at(piece.target_offset, slab.result.data)
            self._free.put(slab)
            self._events.put(piece)


def _read_exactly(file: BinaryIO, offset: int, view: memoryview, path: Path) -> None:
    try:
        file.seek(offset)
        while view:
            count = file.readinto(view)  # type: ignore[attr-defined]
            if not count:
                raise ModelFileError(
                    f"{path} ended while it was read.", "is something else writing to it?"
                )
            view = view[count:]
    except OSError as error:
        raise ModelFileError(
            f"Reading {path} failed: {error.strerror or error}.", "check the disk"
        ) from None


def _advise_sequential(file: BinaryIO) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
