"""Runs a plan: reading, quantizing and writing overlap, in bounded memory.

A reader thread fills slabs of rows, this thread quantizes them on all processors, a writer thread
appends them to the output. Three slabs circulate, so each of the three always has one to work on.
"""

from __future__ import annotations

import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.cpu import cpu_info
from apex.errors import DataError, ModelFileError, OutputError, UsageError
from apex.gguf import ModelFile, OutputSet, shard_path
from apex.planning import Plan, PlannedTensor, PlanOptions, plan
from apex.planning.planned import TENSOR_TYPES

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["DEFAULT_MAX_MEMORY", "Progress", "QuantizeResult", "Timings", "quantize"]

DEFAULT_MAX_MEMORY = 2 << 30

_SLABS = 3
# A slab gives every thread many pieces of 16 Ki weights, so that none waits long for the others.
_WEIGHTS_PER_THREAD = 8 * 64 * 1024
_MIN_SLAB_BYTES = 8 << 20
# What Python, numpy and the extension need beside the slabs, generously.
_BASE_BYTES = 160 << 20
# Conversion buffers of one thread: two of 16 Ki float32, or a row where that is longer.
_THREAD_BYTES = 1 << 20

Bytes = npt.NDArray[np.uint8]


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
    """Where the time went, in seconds. The three stages run side by side.

    Attributes:
        total: from start to end.
        reading, quantizing, writing: how long each stage was busy.
        syncing: the last wait for the disk, after everything was written.
    """

    total: float = 0.0
    reading: float = 0.0
    quantizing: float = 0.0
    writing: float = 0.0
    syncing: float = 0.0


@dataclass(frozen=True)
class QuantizeResult:
    """What was written.

    Attributes:
        plan: the plan that was carried out.
        paths: the files, in the order of their shards.
        bytes: their size together.
        timings: where the time went.
    """

    plan: Plan
    paths: tuple[Path, ...]
    bytes: int
    timings: Timings


def quantize(
    model: str | os.PathLike[str] | ModelFile | Plan,
    output: str | os.PathLike[str],
    *,
    threads: int = 0,
    max_memory: int = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
    **options: Unpack[PlanOptions],
) -> QuantizeResult:
    """Quantize a model, or carry out a plan that was made before.

    model: a GGUF file (of shards, the first), or a Plan.
    output: the file to write. Shards get its name with -00001-of-000NN.
    threads: 0 for all that are available.
    max_memory: bound on the memory of this process, in bytes, page cache aside.
    overwrite: replace an output that exists.
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
    todo.model.require_data()
    paths = output_paths(todo, Path(output))
    check_output(todo, paths, overwrite=overwrite)
    timings = Timings()
    if todo.is_verbatim:
        _copy(todo.model, paths, timings)
    else:
        threads = threads or _core.available_threads()
        _Stream(todo, paths, threads, max_memory, timings).run(progress)
    timings.total = time.perf_counter() - started
    return QuantizeResult(todo, paths, sum(path.stat().st_size for path in paths), timings)


def output_paths(todo: Plan, output: Path) -> tuple[Path, ...]:
    """The names of the output's files."""
    count = len(todo.model.files) if todo.is_verbatim else len(todo.files)
    if count == 1:
        return (output,)
    return tuple(shard_path(output, index, count) for index in range(count))


def check_output(todo: Plan, paths: tuple[Path, ...], *, overwrite: bool) -> None:
    """Raise OutputError unless the output can be written: free, elsewhere, with enough space."""
    for path in paths:
        for source in todo.model.files:
            if path.exists() and path.samefile(source):
                raise OutputError(f"The output {path} is the input itself.", "choose another name")
        if path.is_dir():
            raise OutputError(f"{path} is a folder.", "give the name of a file")
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists already.", "choose another name, or use --overwrite")
    folder = paths[0].parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise OutputError(f"{folder} is not a folder.", "choose another output")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"The folder {folder} is read-only.", "write elsewhere")
    free = shutil.disk_usage(folder).free
    if free < todo.file_bytes:
        raise OutputError(
            f"The disk of {folder} has {free / 2**30:.2f} GiB free, the output needs "
            f"{todo.file_bytes / 2**30:.2f} GiB.",
            "free some space or write elsewhere",
        )


def _copy(model: ModelFile, paths: tuple[Path, ...], timings: Timings) -> None:
    with OutputSet(paths) as output:
        for source, target in zip(model.files, output.files, strict=True):
            with source.open("rb") as file:
                while block := file.read(_MIN_SLAB_BYTES):
                    target.write(block)
        begin = time.perf_counter()
        output.commit()
        timings.syncing = time.perf_counter() - begin


@dataclass(frozen=True)
class _Piece:
    """Whole rows of one tensor that go through the stream together.

    They are either ``experts`` whole experts from ``expert`` on, or ``rows`` rows of one.
    """

    tensor: PlannedTensor
    file: int
    expert: int
    experts: int
    rows: int
    first_row: int  # counted over all experts
    ends_tensor: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.experts, self.rows, self.tensor.source.columns)

    @property
    def source_bytes(self) -> int:
        return self.experts * self.rows * _row_bytes(self.tensor, self.tensor.source.type)

    @property
    def target_bytes(self) -> int:
        return self.experts * self.rows * _row_bytes(self.tensor, self.tensor.type)

    @property
    def offset(self) -> int:
        return self.tensor.source.offset + self.first_row * _row_bytes(
            self.tensor, self.tensor.source.type
        )


@dataclass
class _Slab:
    """A piece of work with its buffers, which are used again and again."""

    source: Bytes
    target: Bytes
    piece: _Piece | None = None
    result: Bytes = field(default_factory=lambda: np.empty(0, np.uint8))


class _Stream:
    """One run. Any stage that fails stops the others; its error is raised by ``run``."""

    def __init__(
        self, todo: Plan, paths: tuple[Path, ...], threads: int, max_memory: int, timings: Timings
    ) -> None:
        self.plan = todo
        self.paths = paths
        self.threads = threads
        self.timings = timings
        self.slab_bytes = _slab_bytes(todo, threads, max_memory)
        self.free: queue.SimpleQueue[_Slab | None] = queue.SimpleQueue()
        self.read: queue.SimpleQueue[_Slab | None] = queue.SimpleQueue()
        self.quantized: queue.SimpleQueue[_Slab | None] = queue.SimpleQueue()
        self.failure: BaseException | None = None

    def run(self, progress: Callable[[Progress], None] | None) -> None:
        pieces = [
            piece
            for index, file in enumerate(self.plan.files)
            for tensor in file.tensors
            for piece in _pieces(tensor, index, self.slab_bytes)
        ]
        source = max(piece.source_bytes for piece in pieces)
        target = max(0 if piece.tensor.is_copied else piece.target_bytes for piece in pieces)
        for _ in range(_SLABS):
            self.free.put(_Slab(np.empty(source, np.uint8), np.empty(target, np.uint8)))
        with OutputSet(self.paths) as output:
            for file, planned in zip(output.files, self.plan.files, strict=True):
                file.write(planned.header)
            stages = (
                threading.Thread(target=self._stage, args=(self._read_all, pieces), name="read"),
                threading.Thread(target=self._stage, args=(self._write_all, output), name="write"),
            )
            for stage in stages:
                stage.start()
            try:
                self._quantize_all(progress)
            except BaseException as error:
                self._stop(error)
                raise
            finally:
                self.quantized.put(None)
                for stage in stages:
                    stage.join()
            if self.failure is not None:
                raise self.failure
            begin = time.perf_counter()
            output.commit()
            self.timings.syncing = time.perf_counter() - begin

    def _stage(self, work: Callable[..., None], argument: object) -> None:
        try:
            work(argument)
        except BaseException as error:  # raised again by run
            self._stop(error)

    def _stop(self, error: BaseException) -> None:
        if self.failure is None:
            self.failure = error
        self.free.put(None)
        self.read.put(None)

    def _read_all(self, pieces: list[_Piece]) -> None:
        with ExitStack() as stack:
            files = [
                stack.enter_context(path.open("rb", buffering=0)) for path in self.plan.model.files
            ]
            for file in files:
                _advise_sequential(file)
            for piece in pieces:
                slab = self.free.get()
                if slab is None or self.failure is not None:
                    return
                begin = time.perf_counter()
                slab.piece = piece
                path = self.plan.model.files[piece.tensor.source.file]
                view = slab.source.data[: piece.source_bytes]
                _read_exactly(files[piece.tensor.source.file], piece.offset, view, path)
                self.timings.reading += time.perf_counter() - begin
                self.read.put(slab)
        self.read.put(None)

    def _quantize_all(self, progress: Callable[[Progress], None] | None) -> None:
        total = self.plan.model.bytes
        done = tensors = 0
        importance: npt.NDArray[np.float32] | None = None
        current: PlannedTensor | None = None
        while (slab := self.read.get()) is not None and self.failure is None:
            piece = slab.piece
            assert piece is not None
            begin = time.perf_counter()
            if piece.tensor is not current:
                current = piece.tensor
                importance = None if current.importance is None else current.importance.values()
            self._quantize(slab, piece, importance)
            self.timings.quantizing += time.perf_counter() - begin
            self.quantized.put(slab)
            done += piece.source_bytes
            tensors += piece.ends_tensor
            if progress is not None:
                count = len(self.plan.tensors)
                progress(Progress(done, total, piece.tensor.name, tensors, count))

    def _quantize(
        self, slab: _Slab, piece: _Piece, importance: npt.NDArray[np.float32] | None
    ) -> None:
        tensor = piece.tensor
        source = slab.source[: piece.source_bytes]
        try:
            if tensor.is_copied:
                slab.result = source
                if TENSOR_TYPES[tensor.type].has_dequantizer:
                    _core.check(source, tensor.type, shape=piece.shape, threads=self.threads)
                return
            slab.result = slab.target[: piece.target_bytes]
            _core.quantize(
                source,
                tensor.type,
                None
                if importance is None
                else importance[piece.expert : piece.expert + piece.experts],
                src_type=tensor.source.type,
                shape=piece.shape,
                out=slab.result,
                threads=self.threads,
            )
        except _core.BadDataError as error:
            row = piece.first_row + error.row
            rows = tensor.source.rows // tensor.source.experts
            where = f"row {row % rows}"
            if tensor.source.experts > 1:
                where = f"expert {row // rows}, {where}"
            raise DataError(
                f"{tensor.name}: {error} ({where}).",
                "the model file is damaged, or was converted with an overflow",
            ) from None

    def _write_all(self, output: OutputSet) -> None:
        while (slab := self.quantized.get()) is not None:
            if self.failure is not None:
                continue  # until the end of the queue
            piece = slab.piece
            assert piece is not None
            begin = time.perf_counter()
            file = output.files[piece.file]
            file.write(slab.result.data)
            if piece.ends_tensor:
                file.pad(self.plan.files[piece.file].alignment)
            self.timings.writing += time.perf_counter() - begin
            self.free.put(slab)


def _slab_bytes(todo: Plan, threads: int, max_memory: int) -> int:
    """Source and target bytes of a slab, so that three of them keep within ``max_memory``."""
    importance = max(
        (
            2 * 4 * tensor.importance.experts * tensor.importance.columns
            for tensor in todo.tensors
            if tensor.importance is not None
        ),
        default=0,
    )
    header = 2 * sum(len(file.header) for file in todo.files)
    columns = max(tensor.source.columns for tensor in todo.tensors)
    thread_bytes = threads * max(_THREAD_BYTES, 8 * columns)
    fixed = _BASE_BYTES + header + importance + thread_bytes
    row = max(_slab_row_bytes(tensor) for tensor in todo.tensors)
    if max_memory < fixed + _SLABS * row:
        needed = (fixed + _SLABS * row + (1 << 20) - 1) >> 20
        raise UsageError(
            f"{max_memory >> 20} MiB of memory are too little for the model on {threads} threads.",
            f"--max-memory {needed}M is the least that works",
        )
    wanted = max(_MIN_SLAB_BYTES, threads * _WEIGHTS_PER_THREAD * 4)
    return max(row, min(wanted, (max_memory - fixed) // _SLABS))


def _row_bytes(tensor: PlannedTensor, type_name: str) -> int:
    facts = TENSOR_TYPES[type_name]
    return tensor.source.columns // facts.block_weights * facts.block_bytes


def _slab_row_bytes(tensor: PlannedTensor) -> int:
    source = _row_bytes(tensor, tensor.source.type)
    return source if tensor.is_copied else source + _row_bytes(tensor, tensor.type)


def _pieces(tensor: PlannedTensor, file: int, slab_bytes: int) -> Iterator[_Piece]:
    """Cut a tensor into pieces of at most ``slab_bytes``: some experts, or some rows of one."""
    matrices = tensor.source.experts
    rows = tensor.source.rows // matrices
    fitting = max(1, slab_bytes // _slab_row_bytes(tensor))
    if fitting >= rows:
        step = fitting // rows
        for expert in range(0, matrices, step):
            experts = min(step, matrices - expert)
            ends = expert + experts == matrices
            yield _Piece(tensor, file, expert, experts, rows, expert * rows, ends)
        return
    for expert in range(matrices):
        for row in range(0, rows, fitting):
            count = min(fitting, rows - row)
            ends = expert == matrices - 1 and row + count == rows
            yield _Piece(tensor, file, expert, 1, count, expert * rows + row, ends)


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
