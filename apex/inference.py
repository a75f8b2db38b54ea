"""Runs models through libllama: loading, texts to chunks, chunks to batches, memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.cpu import cpu_info
from apex.errors import DataError, RunError, UsageError
from apex.sources import ModelFile, open_model

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

__all__ = [
    "Batch",
    "RunOptions",
    "Tokens",
    "available_gpu_memory",
    "available_memory",
    "batches",
    "check_memory",
    "chunks_of",
    "load_model",
    "make_context",
    "peak_memory",
    "read_text",
    "running",
]

Tokens = npt.NDArray[np.int32]


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
                raise UsageError(f"A {name.replace('_', ' ')} must be at least 1.")
        known = {info.name for info in _core.tensor_types()}
        for cache_type in (self.cache_type_k, self.cache_type_v):
            if cache_type not in known:
                raise UsageError(
                    f"There is no KV cache type {cache_type}.", "use F16, BF16, Q8_0 or Q4_0"
                )

    @property
    def sequences(self) -> int:
        """How many chunks run side by side."""
        return max(1, self.batch_size // self.context_length)

    def to_dict(self) -> dict[str, Any]:
        """For results; the threads are those in use."""
        return asdict(self) | {"threads": self.threads or cpu_info().threads}


class _Sizes(TypedDict):
    """What decides a context's memory."""

    context_length: int
    batch_size: int
    micro_batch_size: int
    sequences: int
    cache_type_k: str
    cache_type_v: str
    unified_cache: bool
    mtp: bool


@contextmanager
def running(path: Path) -> Iterator[None]:
    """Turn what goes wrong inside libllama into RunError or DataError about the file."""
    try:
        yield
    except _core.ModelError as error:
        raise RunError(
            f"{path}: {error}.", "is it a complete language model that llama.cpp knows?"
        ) from None
    except _core.NonFiniteError as error:
        raise DataError(
            f"{path}: {error}.", "the model is damaged, or its activations overflow"
        ) from None


def load_model(
    path: str | os.PathLike[str], *, mtp: bool = False, gpu_layers: int = 0
) -> tuple[ModelFile, _core.Model]:
    """Open a GGUF file and load it with libllama, mapped. Raises ModelFileError, RunError.

    mtp: with the multi-token-prediction layers.
    gpu_layers: as in RunOptions.
    """
    file = open_model(path)
    file.require_data()
    if file.is_projector:
        raise RunError(f"{file.path} is a projector, not a language model.", "give the model")
    with running(file.path):
        if gpu_layers:
            _require_gpu()
            need = _core.memory_need(os.fsencode(file.path), load_mtp=mtp, gpu_layers=gpu_layers)
            _check_gpu_memory(f"Loading {file.path}", need["device_model"])
        return file, _core.Model(os.fsencode(file.path), mtp=mtp, gpu_layers=gpu_layers)


def _require_gpu() -> None:
    if not _core.gpu_backends():
        raise RunError(
            "This build of apex cannot run models on a GPU.",
            "build with APEX_GGML_CUDA=ON, or leave out --gpu-layers",
        )
    if not _core.gpu_devices():
        raise RunError(
            "No GPU was found.", "check the driver with nvidia-smi, or leave out --gpu-layers"
        )


def make_context(
    file: ModelFile,
    model: _core.Model,
    options: RunOptions,
    *,
    sequences: int | None = None,
    unified_cache: bool = False,
    mtp: bool = False,
    collect: _core.Accumulator | None = None,
    collect_output: bool = False,
) -> _core.Context:
    """A context for so many chunks side by side. Raises RunError where the memory is too small."""
    sequences = sequences or options.sequences
    length = sequences * options.context_length
    sizes: _Sizes = {
        "context_length": length,
        "batch_size": min(options.batch_size, length),
        "micro_batch_size": min(options.micro_batch_size, length),
        "sequences": sequences,
        "cache_type_k": options.cache_type_k,
        "cache_type_v": options.cache_type_v,
        "unified_cache": unified_cache,
        "mtp": mtp,
    }
    with running(file.path):
        need = _core.memory_need(os.fsencode(file.path), **sizes, gpu_layers=options.gpu_layers)
        check_memory(file.path, need)
        return _core.Context(
            model,
            **sizes,
            threads=options.threads,
            collect=collect,
            collect_output=collect_output,
        )


def check_memory(path: Path, need: dict[str, int]) -> None:
    """Raise RunError where caches and buffers need more memory than there is.

    need: what ``_core.memory_need`` says, of a model that is loaded.
    """
    available = available_memory()
    wanted = need["cache"] + need["compute"] + need["logits"]
    if available is not None and wanted > available:
        raise RunError(
            f"Running {path} needs {wanted / 2**30:.1f} GiB beside the model, and "
            f"{available / 2**30:.1f} GiB are free.",
            "use a smaller --ctx-size or --batch-size, or a KV cache of a smaller type",
        )
    if need["device"]:
        _check_gpu_memory(f"Running {path}", need["device"])


def _check_gpu_memory(what: str, wanted: int) -> None:
    available = available_gpu_memory()
    if wanted > available:
        raise RunError(
            f"{what} needs {wanted / 2**30:.1f} GiB on GPUs, and {available / 2**30:.1f} GiB are "
            "free there.",
            "use fewer --gpu-layers",
        )


def available_gpu_memory() -> int:
    """Bytes that are free on all GPUs together."""
    return sum(free for _, _, free, _ in _core.gpu_devices())


def available_memory() -> int | None:
    """Bytes that may still be allocated, by the system and by the control group; None: unknown."""
    known = []
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                known.append(int(line.split()[1]) * 1024)
    except (OSError, ValueError):
        pass
    try:
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            statistics = (group / "memory.stat").read_text(encoding="ascii").split()
            files = int(statistics[statistics.index("file") + 1])  # given back when needed
            used = int((group / "memory.current").read_text(encoding="ascii"))
            known.append(int(limit) - used + files)
    except (OSError, ValueError):
        pass
    return min(known, default=None)


def peak_memory() -> int:
    """The most bytes that this process has had in memory, mapped pages included; 0: unknown."""
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def read_text(path: str | os.PathLike[str]) -> bytes:
    """A text file as llama.cpp's tools read it: without one line break at its end."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{os.fspath(path)} cannot be read: {error.strerror}.") from None
    if not data.strip():
        raise UsageError(f"{os.fspath(path)} is empty.", "give a file with text")
    return data.removesuffix(b"\n")


def chunks_of(tokens: Tokens, length: int) -> Tokens:
    """int32 (chunks, length): the tokens cut into chunks; what is left over is dropped."""
    count = len(tokens) // length
    return tokens[: count * length].reshape(count, length)


@dataclass(frozen=True)
class Batch:
    """Tokens that run together: a piece of some chunks, side by side.

    Attributes:
        chunks: which chunks of those given.
        begins: whether these are their first tokens.
        tokens, positions, sequences: int32, one per token, chunk by chunk.
        outputs: bool, whether the token's logits are wanted.
    """

    chunks: range
    begins: bool
    tokens: Tokens
    positions: Tokens
    sequences: Tokens
    outputs: npt.NDArray[np.bool_]

    @property
    def rows(self) -> tuple[Tokens, Tokens]:
        """Of each row of logits, which chunk (from 0, in this batch) and position it is of."""
        return self.sequences[self.outputs], self.positions[self.outputs]


def batches(
    chunks: Tokens | Sequence[Tokens], options: RunOptions, model: _core.Model, *, first_output: int
) -> Iterator[Batch]:
    """The batches that llama-perplexity and llama-imatrix make of chunks.

    A chunk begins with the model's beginning-of-sequence token, if it uses one, in place of its
    first. first_output: from which position on logits are wanted.
    """
    length, step = options.context_length, min(options.batch_size, options.context_length)
    for first in range(0, len(chunks), options.sequences):
        group = range(first, min(first + options.sequences, len(chunks)))
        tokens = np.stack([chunks[index] for index in group])
        if model.adds_bos:
            tokens[:, 0] = model.bos
        for start in range(0, length, step):
            positions = np.arange(start, min(start + step, length), dtype=np.int32)
            shape = (len(group), len(positions))
            everywhere = np.broadcast_to(positions, shape).reshape(-1)
            yield Batch(
                group,
                start == 0,
                tokens[:, positions].reshape(-1),
                everywhere,
                np.repeat(np.arange(len(group), dtype=np.int32), len(positions)),
                everywhere >= first_output,
            )
