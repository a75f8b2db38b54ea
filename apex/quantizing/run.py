"""Carries a plan out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from apex import _core
from apex.cpu import cpu_info
from apex.errors import DeviceError, UsageError
from apex.files import OutputSet, check_output
from apex.gpu import choose_gpus
from apex.planning import Plan, PlanOptions, files_read, plan
from apex.quantizing.pieces import CPU_SLABS, slab_bytes, split
from apex.quantizing.result import DeviceUse, Progress, QuantizeResult, Timings
from apex.quantizing.stream import Stream
from apex.quantizing.workers import DEVICE_SLOTS, Gpu, Processor, device_limits, slot_bytes
from apex.sources import ModelFile, shard_path

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["DEFAULT_MAX_MEMORY", "check_plan_output", "output_paths", "quantize"]

DEFAULT_MAX_MEMORY = 2 << 30

# With GPUs: how large a slab is at best, and how many threads read at most, and how many write. One
# thread copies from the page cache far more slowly than a GPU takes.
_DEVICE_SLAB_BYTES = 48 << 20
_MOST_HELPERS = 6
# Of a GPU's free memory, what is left to others.
_DEVICE_RESERVE = 256 << 20
_LEAST_SLAB_BYTES = 4096
_COPY_BYTES = 8 << 20


def quantize(
    model: str | os.PathLike[str] | ModelFile | Plan,
    output: str | os.PathLike[str],
    *,
    threads: int = 0,
    max_memory: int = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    backend: str = "auto",
    devices: Sequence[int] | None = None,
    progress: Callable[[Progress], None] | None = None,
    **options: Unpack[PlanOptions],
) -> QuantizeResult:
    """Quantize a model, or carry out a plan that was made before.

    model: a GGUF file (of shards, the first), or a Plan.
    output: the file to write. Shards get its name with -00001-of-000NN.
    threads: 0 for all that are available.
    max_memory: bound on the memory of this process, in bytes, page cache and CUDA's own aside.
    overwrite: replace an output that exists.
    backend: "cpu"; "cuda", which raises DeviceError where a GPU cannot be used or fails; or "auto",
        which takes the GPUs that are there, and goes on with the processor where one fails. The
        bytes are the same.
    devices: numbers of the GPUs to use; None for all.
    progress: called after every slab, from this thread.
    options: those of ``PlanOptions``; none with a Plan.

    Everything that can be checked is checked before the first byte is written. The output appears
    under its name when it is complete and on the disk; whatever goes wrong before leaves nothing.
    Raises ApexError of the kind that fits; KeyboardInterrupt passes through.
    """
    started = time.perf_counter()
    if isinstance(model, Plan):
        if options:
            raise TypeError("a plan is complete; options go to plan()")
        todo = model
    else:
        todo = plan(model, **options)
    if todo.is_sizes_only:
        raise UsageError("A plan for sizes only cannot be carried out.", "plan without sizes_only")
    cpu_info()  # an APEX_ISA that cannot be had is an error before anything is written
    chosen = choose_gpus(backend, devices)
    todo.model.require_data()
    paths = output_paths(todo, Path(output))
    check_plan_output(todo, paths, files_read(options), overwrite=overwrite)
    timings = Timings()
    if todo.is_verbatim:
        _copy(todo.model, paths, timings)
        return _result(todo, paths, timings, started)
    processor = Processor(threads or _core.available_threads(), timings)
    notes: list[str] = []
    with timings.measure("preparing"):
        try:
            stream = _make_stream(todo, chosen, processor, max_memory, backend == "cuda")
        except (_core.DeviceError, DeviceError, UsageError) as error:
            if isinstance(error, UsageError) and (backend == "cuda" or not chosen):
                raise
            reason = str(error).partition("\n")[0].rstrip(".")
            if backend == "cuda":
                raise DeviceError(
                    f"The GPU cannot be used: {reason}.",
                    "try --max-memory or --device, or leave out --backend cuda",
                ) from None
            notes.append(f"The processor quantizes, because the GPU cannot be used: {reason}.")
            stream = _make_stream(todo, (), processor, max_memory, False)
    stream.run(paths, progress)
    used = tuple(gpu.use for gpu in stream.gpus)
    notes += (
        f"The GPU {use.index} ({use.name}) failed, and the processor went on in its place: "
        f"{use.failure}."
        for use in used
        if use.failure
    )
    return _result(todo, paths, timings, started, used, stream.memory, tuple(notes))


def _result(
    todo: Plan,
    paths: tuple[Path, ...],
    timings: Timings,
    started: float,
    devices: tuple[DeviceUse, ...] = (),
    slab_memory: int = 0,
    notes: tuple[str, ...] = (),
) -> QuantizeResult:
    timings.total = time.perf_counter() - started
    size = sum(path.stat().st_size for path in paths)
    return QuantizeResult(todo, paths, size, timings, devices, slab_memory, notes)


def _make_stream(
    todo: Plan,
    chosen: Sequence[_core.Device],
    processor: Processor,
    max_memory: int,
    is_gpu_required: bool,
) -> Stream:
    """A stream through these GPUs; through the processor if there are none, or no work for them.

    Slabs shrink until they fit the GPU with the least memory. Raises DeviceError where not even the
    smallest do, or where memory cannot be had.
    """
    helpers = max(1, min(_MOST_HELPERS, processor.threads // 2))
    slabs = DEVICE_SLOTS * len(chosen) + 2 * helpers
    wanted = _DEVICE_SLAB_BYTES
    while chosen:
        size = slab_bytes(todo, processor.threads, max_memory, slabs, wanted)
        pieces = split(todo, size)
        limits = device_limits(pieces)
        if limits is None:
            break
        need = DEVICE_SLOTS * slot_bytes(limits) + _DEVICE_RESERVE
        least = min(device.free_memory for device in chosen)
        if need <= least:
            gpus = [Gpu(device, limits, processor) for device in chosen]
            return Stream(todo, pieces, slabs, processor, gpus, helpers, is_gpu_required)
        if size > wanted or wanted < _LEAST_SLAB_BYTES:
            raise DeviceError(
                f"{least >> 20} MiB of its memory are free, and the model's longest rows need "
                f"{need >> 20} MiB."
            )
        wanted //= 2
    pieces = split(todo, slab_bytes(todo, processor.threads, max_memory, CPU_SLABS))
    return Stream(todo, pieces, CPU_SLABS, processor, (), 1, is_gpu_required)


def output_paths(todo: Plan, output: Path) -> tuple[Path, ...]:
    """The names of the output's files."""
    count = len(todo.model.files) if todo.is_verbatim else len(todo.files)
    if count == 1:
        return (output,)
    return tuple(shard_path(output, index, count) for index in range(count))


def check_plan_output(
    todo: Plan, paths: tuple[Path, ...], inputs: Iterable[Path] = (), *, overwrite: bool
) -> None:
    """Raise OutputError unless a plan's files can be written: free, elsewhere, with enough space.

    inputs: files that the plan was made with, beside the model and its importance matrix.
    """
    read = [*todo.model.files, *inputs]
    if todo.imatrix is not None:
        read.append(Path(todo.imatrix.path))
    check_output(paths, read, overwrite=overwrite, size=todo.file_bytes)


def _copy(model: ModelFile, paths: tuple[Path, ...], timings: Timings) -> None:
    with OutputSet(paths) as output:
        for source, target in zip(model.files, output.files, strict=True):
            with source.open("rb") as file:
                while block := file.read(_COPY_BYTES):
                    target.write(block)
        begin = time.perf_counter()
        output.commit()
        timings.add(syncing=time.perf_counter() - begin)
