"""What a run tells while it goes on and when it is done."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from apex.planning import Plan

__all__ = ["DeviceUse", "Progress", "QuantizeResult", "Timings"]


@dataclass(frozen=True)
class Progress:
    """How far a run is; given to the progress callback after every slab.

    Attributes:
        done_bytes, total_bytes: of the input's tensors.
        tensor: name of the tensor at work.
        tensors_done, tensors: how many are finished, and how many there are.
    """

    done_bytes: int
    total_bytes: int
    tensor: str
    tensors_done: int
    tensors: int


@dataclass
class Timings:
    """Where the time went, in seconds. The stages run side by side.

    Attributes:
        total: from start to end.
        preparing: until the first read: buffers, and the GPUs' memory.
        reading, quantizing, writing: how long each stage was busy, all its threads together. With
            GPUs, quantizing is what the processor did: slabs that no GPU takes, and checks.
        copying_in, computing, copying_out: how long the GPUs were busy with each, all together.
        syncing: the last wait for the disk, after everything was written.
    """

    total: float = 0.0
    preparing: float = 0.0
    reading: float = 0.0
    quantizing: float = 0.0
    copying_in: float = 0.0
    computing: float = 0.0
    copying_out: float = 0.0
    writing: float = 0.0
    syncing: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, **seconds: float) -> None:
        """Add to stages, from any thread."""
        with self._lock:
            for stage, value in seconds.items():
                setattr(self, stage, getattr(self, stage) + value)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time of a block to a stage."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.add(**{stage: time.perf_counter() - begin})

    def to_dict(self) -> dict[str, float]:
        """By stage."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


@dataclass
class DeviceUse:
    """What one GPU did.

    Attributes:
        index, name: of the GPU.
        memory: bytes that were reserved on it.
        bytes: of the source that it quantized.
        failure: why it was given up, or "".
    """

    index: int
    name: str
    memory: int
    bytes: int = 0
    failure: str = ""


@dataclass(frozen=True)
class QuantizeResult:
    """What was written.

    Attributes:
        plan: the plan that was carried out.
        paths: the files, in the order of their shards.
        bytes: their size together.
        timings: where the time went.
        devices: the GPUs that took part; empty if the processor did everything.
        slab_memory: bytes of all slabs in this process's memory.
        notes: what the user should know, such as that a GPU failed; one sentence each.
    """

    plan: Plan
    paths: tuple[Path, ...]
    bytes: int
    timings: Timings
    devices: tuple[DeviceUse, ...] = ()
    slab_memory: int = 0
    notes: tuple[str, ...] = ()
