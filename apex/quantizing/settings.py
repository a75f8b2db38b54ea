"""How plans are carried out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from apex.errors import UsageError

__all__ = ["DEFAULT_MAX_MEMORY", "RunSettings"]

DEFAULT_MAX_MEMORY = 2 << 30


@dataclass(frozen=True)
class RunSettings:
    """How plans are carried out; nothing here changes a byte.

    Attributes:
        threads: 0 for all that are available.
        max_memory: bound on the memory of this process, in bytes, page cache and CUDA's own aside.
        overwrite: replace outputs that exist.
        backend: "cpu"; "cuda", which raises DeviceError where a GPU cannot be used or fails;
            "auto", which takes the GPUs that are there, and goes on with the processor where one
            fails; or one that was registered with ``register_workers``.
        devices: numbers of the GPUs to use; None for all.
    """

    threads: int = 0
    max_memory: int = DEFAULT_MAX_MEMORY
    overwrite: bool = False
    backend: str = "auto"
    devices: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise UsageError(
                f"{self.threads} threads cannot work.", "give a number of threads, or 0 for all"
            )
