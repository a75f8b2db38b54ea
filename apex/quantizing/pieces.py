"""How a plan is cut into slabs: whole rows that go through the stream together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from apex.errors import UsageError
from apex.planning import Plan, PlannedTensor
from apex.planning.planned import TENSOR_TYPES

__all__ = ["CPU_SLABS", "Bytes", "Piece", "Slab", "slab_bytes", "slab_room", "split"]

Bytes = npt.NDArray[np.uint8]

# Without GPUs three slabs circulate, so that reading, quantizing and writing each have one.
CPU_SLABS = 3
# A slab gives every thread many pieces of 16 Ki weights, so that none waits long for the others.
_WEIGHTS_PER_THREAD = 8 * 64 * 1024
_MIN_SLAB_BYTES = 8 << 20
# What Python, numpy and the extension need beside the slabs, generously.
_BASE_BYTES = 160 << 20
# Conversion buffers of one thread: two of 16 Ki float32, or a row where that is longer.
_THREAD_BYTES = 1 << 20


@dataclass(frozen=True)
class Piece:
    """Whole rows of one tensor that go through the stream together.

    They are either ``experts`` whole experts from ``expert`` on, or ``rows`` rows of one.

    Attributes:
        file: number of the output file.
        first_row: counted over all experts.
        target_offset: where the bytes go in that file.
    """

    tensor: PlannedTensor
    file: int
    expert: int
    experts: int
    rows: int
    first_row: int
    target_offset: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(experts, rows, columns)."""
        return (self.experts, self.rows, self.tensor.source.columns)

    @property
    def source_bytes(self) -> int:
        """Size in the input."""
        return self.experts * self.rows * _row_bytes(self.tensor, self.tensor.source.type)

    @property
    def target_bytes(self) -> int:
        """Size in the output."""
        return self.experts * self.rows * _row_bytes(self.tensor, self.tensor.type)

    @property
    def source_offset(self) -> int:
        """Where the rows are in the input's file."""
        return self.tensor.source.offset + self.first_row * _row_bytes(
            self.tensor, self.tensor.source.type
        )


@dataclass
class Slab:
    """Room for a piece, which is used again and again."""

    source: Bytes
    target: Bytes
    piece: Piece | None = None
    result: Bytes = field(default_factory=lambda: np.empty(0, np.uint8))

    @property
    def work(self) -> Piece:
        """The piece in it."""
        assert self.piece is not None
        return self.piece

    def take(self, piece: Piece) -> None:
        """Make it the room of this piece."""
        self.piece = piece
        size = piece.source_bytes
        self.result = self.source[:size]
        if not piece.tensor.is_copied:
            self.result = self.target[: piece.target_bytes]

    @property
    def rows(self) -> Bytes:
        """The source's bytes of the piece."""
        return self.source[: self.work.source_bytes]


def slab_bytes(todo: Plan, threads: int, max_memory: int, slabs: int, wanted: int = 0) -> int:
    """Source and target bytes of a slab, so that all of them keep within ``max_memory``.

    wanted: how large a slab is at best; 0 for what suits the processor. Raises UsageError where the
    smallest slabs are too much.
    """
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
    if max_memory < fixed + slabs * row:
        needed = (fixed + slabs * row + (1 << 20) - 1) >> 20
        raise UsageError(
            f"{max_memory >> 20} MiB of memory are too little for the model on {threads} threads.",
            f"--max-memory {needed}M is the least that works",
        )
    wanted = wanted or max(_MIN_SLAB_BYTES, threads * _WEIGHTS_PER_THREAD * 4)
    return max(row, min(wanted, (max_memory - fixed) // slabs))


def slab_room(pieces: list[Piece]) -> tuple[int, int]:
    """Bytes of source and of target that have room for any of the pieces."""
    source = max(piece.source_bytes for piece in pieces)
    target = max(0 if piece.tensor.is_copied else piece.target_bytes for piece in pieces)
    return source, target


def split(todo: Plan, limit: int) -> list[Piece]:
    """All pieces of a plan in order, of at most ``limit`` source and target bytes each."""
    result: list[Piece] = []
    for index, file in enumerate(todo.files):
        offset = len(file.header)
        for tensor in file.tensors:
            result += _pieces(tensor, index, offset, limit)
            offset += -(-tensor.bytes // file.alignment) * file.alignment
    return result


def _row_bytes(tensor: PlannedTensor, type_name: str) -> int:
    facts = TENSOR_TYPES[type_name]
    return tensor.source.columns // facts.block_weights * facts.block_bytes


def _slab_row_bytes(tensor: PlannedTensor) -> int:
    source = _row_bytes(tensor, tensor.source.type)
    return source if tensor.is_copied else source + _row_bytes(tensor, tensor.type)


def _pieces(tensor: PlannedTensor, file: int, offset: int, limit: int) -> Iterator[Piece]:
    """Some experts each, or some rows of one."""
    matrices = tensor.source.experts
    rows = tensor.source.rows // matrices
    target_row = _row_bytes(tensor, tensor.type)
    fitting = max(1, limit // _slab_row_bytes(tensor))
    if fitting >= rows:
        step = fitting // rows
        for expert in range(0, matrices, step):
            first = expert * rows
            experts = min(step, matrices - expert)
            yield Piece(tensor, file, expert, experts, rows, first, offset + first * target_row)
        return
    for expert in range(matrices):
        for row in range(0, rows, fitting):
            first = expert * rows + row
            count = min(fitting, rows - row)
            yield Piece(tensor, file, expert, 1, count, first, offset + first * target_row)
