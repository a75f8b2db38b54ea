"""How a model is run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from apex import _core
from apex.cpu import cpu_info
from apex.errors import UsageError

__all__ = ["RunOptions"]


@dataclass(frozen=True)
class RunOptions:
    """How a model is run. The defaults are those of llama.cpp's tools.

    Attributes:
        context_length: tokens of a chunk.
        batch_size: tokens that are given to libllama at a time; where it holds several chunks, they
            run side by side. Other groupings give other low digits.
        micro_batch_size: tokens that libllama computes at a time.
        threads: 0 for all processors.
        cache_type_k, cache_type_v: types of the KV cache, such as F16, Q8_0 or Q4_0.
        gpu_layers: layers that run on GPUs, counted from the output; a negative number: all. Other
            processors give other low digits too.
    """

    context_length: int = 512
    batch_size: int = 2048
    micro_batch_size: int = 512
    threads: int = 0
    cache_type_k: str = "F16"
    cache_type_v: str = "F16"
    gpu_layers: int = 0

    def __post_init__(self) -> None:
        for name in ("context_length", "batch_size", "micro_batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"The {name.replace('_', ' ')} must be at least 1.")
        if self.threads < 0:
            raise UsageError("The number of threads must not be negative.", "0 takes all")
        known = {info.name for info in _core.tensor_types()}
        for cache_type in (self.cache_type_k, self.cache_type_v):
            if cache_type not in known:
                raise UsageError(
                    f"There is no KV cache type {cache_type}.", "use F16, BF16, Q8_0 or Q4_0"
                )

    @property
    def sequences(self) -> int:
        """How many chunks run side by side: as many as a batch holds and libllama can take."""
        wanted = self.batch_size // self.context_length
        return max(1, min(wanted, _core.max_sequences()))

    def to_dict(self) -> dict[str, Any]:
        """For results; the threads are those in use."""
        return asdict(self) | {"threads": self.threads or cpu_info().threads}
