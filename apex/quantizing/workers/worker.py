"""What a worker is, and which there are by the name of their backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from apex.quantizing.slabs import Slab, Slabs
from apex.quantizing.workers.processor import Processor

__all__ = ["MakeWorkers", "Worker", "register_workers", "registered_workers", "unregister_workers"]


class Worker(Protocol):
    """Who quantizes slabs. Several run side by side, each in a thread of its own.

    The bytes are the same whoever makes them. A worker may have several slabs under way, and may
    give them back in any order.
    """

    def run(self, work: Slabs, done: Callable[[Slab], None]) -> None:
        """Fill the results of slabs until None comes, which is put back for the other workers.

        Raises DataError for weights that cannot be quantized.
        """


#: Makes the workers of a run, given the processor, which can take what a worker does not.
MakeWorkers = Callable[[Processor], Sequence[Worker]]

_REGISTERED: dict[str, MakeWorkers] = {}


def register_workers(backend: str, make: MakeWorkers) -> None:
    """Make a backend of this name known: ``quantize(…, backend=NAME)`` uses its workers."""
    _REGISTERED[backend] = make


def unregister_workers(backend: str) -> None:
    """Forget a backend that was registered."""
    del _REGISTERED[backend]


def registered_workers(backend: str) -> MakeWorkers | None:
    """What was registered under this name, or None."""
    return _REGISTERED.get(backend)
