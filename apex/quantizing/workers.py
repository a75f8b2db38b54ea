"""Who quantizes slabs: the processor, or a GPU with the processor behind it."""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.errors import DataError, DeviceError
from apex.planning import PlannedTensor
from apex.planning.planned import TENSOR_TYPES
from apex.quantizing.pieces import Piece, Slab
from apex.quantizing.result import DeviceUse, Timings

__all__ = ["DEVICE_SLOTS", "Gpu", "Limits", "Processor", "Slabs", "device_limits", "slot_bytes"]

# Slabs under way on a GPU: one comes in, one is quantized, one goes out.
DEVICE_SLOTS = 3

Slabs = queue.SimpleQueue["Slab | None"]


class Importances:
    """The importance of tensors at work, made once per tensor."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, npt.NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, piece: Piece) -> npt.NDArray[np.float32] | None:
        """float32 (experts, columns) of the piece, or None."""
        tensor = piece.tensor
        if tensor.importance is None:
            return None
        with self._lock:
            if tensor.name not in self._known:
                self._known[tensor.name] = tensor.importance.values()
                if len(self._known) > 2:  # slabs under way are of few tensors
                    self._known.popitem(last=False)
            values = self._known[tensor.name]
        return values[piece.expert : piece.expert + piece.experts]


class Processor:
    """The processor, with so many threads."""

    def __init__(self, threads: int, timings: Timings) -> None:
        self.threads = threads
        self.timings = timings
        self.importances = Importances()

    def run(self, work: Slabs, done: Callable[[Slab], None]) -> None:
        """Quantize slabs until None comes."""
        while (slab := work.get()) is not None:
            self.quantize(slab)
            done(slab)
        work.put(None)  # for other workers

    def quantize(self, slab: Slab) -> None:
        """Quantize one slab, or check it where it is written as it is. Raises DataError."""
        piece = slab.work
        tensor = piece.tensor
        with self.timings.measure("quantizing"):
            try:
                if not tensor.is_copied:
                    _core.quantize(
                        slab.rows,
                        tensor.type,
                        self.importances.of(piece),
                        src_type=tensor.source.type,
                        shape=piece.shape,
                        out=slab.result,
                        threads=self.threads,
                    )
                elif TENSOR_TYPES[tensor.type].has_dequantizer:
                    _core.check(slab.rows, tensor.type, shape=piece.shape, threads=self.threads)
            except _core.BadDataError as error:
                raise _data_error(piece, error) from None


def _data_error(piece: Piece, error: _core.BadDataError) -> DataError:
    source = piece.tensor.source
    row = piece.first_row + error.row
    rows = source.rows // source.experts
    where = f"row {row % rows}"
    if source.experts > 1:
        where = f"expert {row // rows}, {where}"
    return DataError(
        f"{piece.tensor.name}: {error} ({where}).",
        "the model file is damaged, or was converted with an overflow",
    )


class Limits(TypedDict):
    """The largest slab that a GPU will get."""

    source_bytes: int
    target_bytes: int
    importance_values: int
    rows: int
    dequantized_weights: int


def is_for_device(tensor: PlannedTensor) -> bool:
    """Whether a GPU has a kernel for the tensor."""
    return not tensor.is_copied and _core.can_quantize_on_device(
        tensor.source.type, tensor.type, tensor.importance is not None
    )


def slot_bytes(limits: Limits) -> int:
    """Memory that one slab takes on a GPU."""
    floats = limits["importance_values"] + limits["rows"] + limits["dequantized_weights"]
    return limits["source_bytes"] + limits["target_bytes"] + 4 * floats


def device_limits(pieces: list[Piece]) -> Limits | None:
    """What the pieces ask of a GPU; None if none of them is for one."""
    mine = [piece for piece in pieces if is_for_device(piece.tensor)]
    if not mine:
        return None

    def weights(piece: Piece) -> int:
        if not TENSOR_TYPES[piece.tensor.source.type].is_quantized:
            return 0
        return piece.experts * piece.rows * piece.tensor.source.columns

    return {
        "source_bytes": max(piece.source_bytes for piece in mine),
        "target_bytes": max(piece.target_bytes for piece in mine),
        "importance_values": max(
            0 if piece.tensor.importance is None else piece.experts * piece.tensor.source.columns
            for piece in mine
        ),
        "rows": max(piece.experts * piece.rows for piece in mine),
        "dequantized_weights": max(map(weights, mine)),
    }


class Gpu:
    """One GPU, and the processor for what it does not take."""

    def __init__(self, device: _core.Device, limits: Limits, processor: Processor) -> None:
        self.quantizer = _core.DeviceQuantizer(device.index, DEVICE_SLOTS, **limits)
        self.use = DeviceUse(device.index, device.name, DEVICE_SLOTS * slot_bytes(limits))
        self.processor = processor
        self._under_way: deque[Slab] = deque()  # the oldest first
        self._submitted = 0
        self._given_up: list[npt.NDArray[np.uint8]] = []

    def run(self, work: Slabs, done: Callable[[Slab], None], *, is_required: bool) -> None:
        """Quantize slabs until None comes.

        A GPU that fails is given up: what it had, and what comes, goes to the processor; or, if it
        is required, DeviceError is raised.
        """
        try:
            self._run_on_device(work, done)
        except _core.DeviceError as error:
            self.use.failure = str(error)
            if is_required:
                raise DeviceError(
                    f"The GPU {self.use.index} ({self.use.name}) failed: {error}.",
                    "try again, or leave out --backend cuda to go on with the processor",
                ) from None
            for slab in self._under_way:
                # A copy that is still on its way must not meet the processor's bytes.
                self._given_up.append(slab.target)
                slab.target = np.empty_like(slab.target)
                slab.take(slab.work)
                self.processor.quantize(slab)
                done(slab)
            self.processor.run(work, done)

    def _run_on_device(self, work: Slabs, done: Callable[[Slab], None]) -> None:
        while (slab := self._next(work, done)) is not None:
            if is_for_device(slab.work.tensor):
                self._submit(slab)
            else:
                self.processor.quantize(slab)
                done(slab)
        while self._under_way:
            self._finish(done)
        work.put(None)  # for other workers

    def _next(self, work: Slabs, done: Callable[[Slab], None]) -> Slab | None:
        while len(self._under_way) == DEVICE_SLOTS:
            self._finish(done)
        while True:
            try:
                return work.get(block=not self._under_way)
            except queue.Empty:
                self._finish(done)

    def _submit(self, slab: Slab) -> None:
        piece = slab.work
        slot = self._submitted % DEVICE_SLOTS
        self._submitted += 1
        self._under_way.append(slab)
        self.quantizer.submit(
            slot,
            slab.rows,
            piece.tensor.source.type,
            piece.shape,
            [(piece.tensor.type, self.processor.importances.of(piece), slab.result)],
        )

    def _finish(self, done: Callable[[Slab], None]) -> None:
        slab = self._under_way[0]
        outcome = self.quantizer.wait((self._submitted - len(self._under_way)) % DEVICE_SLOTS)
        self._under_way.popleft()
        self.processor.timings.add(
            copying_in=outcome.copying_in,
            computing=outcome.computing,
            copying_out=outcome.copying_out,
        )
        if outcome.is_sound:
            self.use.bytes += slab.work.source_bytes
        else:  # the processor says what is wrong with the weights, and where
            self.processor.quantize(slab)
        done(slab)
