"""Second-moment files: per matrix, the sum over its input rows x of x xᵀ.

The data stays in the file and is mapped: for a large model it takes many GiB. A file in the making
has -1 in the place of the counts that are not there yet.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.errors import ImatrixError

__all__ = ["MomentsEntry", "SecondMoments", "is_second_moments", "load_second_moments"]

KIND, VERSION = "second-moments", 1
SUMS, ROWS = ".moments", ".rows"
# Keys of the metadata. Texts and chunks have those of an importance matrix.
KEYS = {
    "version": "apex.second_moments.version",
    "model": "apex.second_moments.model",
    "same": "apex.second_moments.same",
    "run": "apex.second_moments.run",
    "weights": "apex.second_moments.weights",
}
UNFINISHED = -1

_AGAIN = "collect the second moments again"
_WRITES = "apex imatrix MODEL --second-moments FILE writes such files"

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]


def triangle(columns: int) -> int:
    """Values of a packed lower triangle, the diagonal among them."""
    return columns * (columns + 1) // 2


@dataclass(frozen=True, eq=False)
class MomentsEntry:
    """What was collected for one tensor.

    Attributes:
        path, name: of the file and the tensor, for messages.
        columns: of the tensor.
        rows: int64 (matrices,): how many rows each sum was taken over.
    """

    path: str
    name: str
    columns: int
    rows: Counts
    _sums: Floats = field(repr=False)

    @property
    def matrices(self) -> int:
        """How many matrices (experts) the tensor has."""
        return len(self.rows)

    def sums(self, matrix: int) -> Floats:
        """A matrix's sum of x xᵀ, float32 (triangle,), a view of the file.

        The lower triangle packed: row i, column j <= i at i (i + 1) / 2 + j. Raises ImatrixError
        where values are not finite, or negative on the diagonal.
        """
        values: Floats = self._sums[matrix]
        index = np.arange(self.columns)
        if not np.isfinite(values).all() or values[index * (index + 3) // 2].min() < 0:
            raise ImatrixError(
                f"{self.path}: {self.name} holds values that cannot be second moments.", _AGAIN
            )
        return values

    def pooled(self) -> tuple[Floats, int]:
        """The sum over all matrices, taken in float64 and rounded to float32, and of all rows."""
        total = np.zeros(triangle(self.columns), np.float64)
        for matrix in np.flatnonzero(self.rows).tolist():
            total += self.sums(matrix)
        return total.astype(np.float32), int(self.rows.sum())


@dataclass(frozen=True, eq=False)
class SecondMoments:
    """A second-moment file.

    Attributes:
        path: as the caller gave it.
        model_digest: of the model that it was made of, see ``calibration.identity``.
        datasets: the names of the calibration texts.
        chunk_count, chunk_size: how many chunks were run, and how many tokens each has.
        aliases: by name of a tensor without sums of its own, the one with the same inputs.
        of_weights: the tensors whose sums are over rows of weights, whatever the texts: those that
            read a row of the embedding.
    """

    path: str
    model_digest: str
    datasets: tuple[str, ...]
    chunk_count: int
    chunk_size: int
    aliases: Mapping[str, str]
    of_weights: tuple[str, ...]
    _entries: Mapping[str, MomentsEntry] = field(repr=False)
    _header: bytes = field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all tensors that have an entry, those with the same inputs as others included."""
        return (*self._entries, *self.aliases)

    @property
    def own_names(self) -> tuple[str, ...]:
        """Of the tensors that have sums of their own, in the order of the file."""
        return tuple(self._entries)

    def entry(self, name: str) -> MomentsEntry | None:
        """What was collected for a tensor; None where nothing was."""
        return self._entries.get(self.aliases.get(name, name))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the header and of all counts of rows, in hexadecimal.

        The sums themselves are not read, as they are of many GiB: a file with the same header and
        the same counts and other sums has the same digest.
        """
        digest = hashlib.sha256(self._header)
        for entry in self._entries.values():
            digest.update(entry.rows.tobytes())
        return digest.hexdigest()


def is_second_moments(path: str | os.PathLike[str]) -> bool:
    """Whether a file says of itself that it holds second moments, sound or not."""
    try:
        return bool(_get(_core.Header.read_metadata(os.fsencode(path)), "general.type", "") == KIND)
    except (_core.HeaderError, OSError):
        return False


def load_second_moments(path: str | os.PathLike[str]) -> SecondMoments:
    """Open a second-moment file. Raises ImatrixError.

    Sizes and counts are checked here, the values of a matrix when they are asked for.
    """
    name = os.fspath(path)
    try:
        if not Path(name).is_file() and Path(name).exists():  # a pipe would be waited for
            raise ImatrixError(f"{name} is not a regular file.", "name a second-moment file")
        with Path(name).open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ImatrixError(f"{name} is not a second-moment file.", _WRITES)
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        header = _core.Header.read(os.fsencode(name))
    except OSError as error:
        raise ImatrixError(f"{name} cannot be read: {error.strerror}.", "check the path") from None
    except _core.HeaderError as error:
        raise ImatrixError(f"{name} is damaged: {error}.", _AGAIN) from None
    if _get(header, "general.type", "") != KIND:
        raise ImatrixError(f"{name} is not a second-moment file.", _WRITES)
    version = _get(header, KEYS["version"], 0)
    if version != VERSION:
        raise ImatrixError(
            f"{name} is of version {version}, and this apex reads version {VERSION}.", _AGAIN
        )
    entries = _entries(name, data, header)
    return SecondMoments(
        name,
        str(_get(header, KEYS["model"], "")),
        tuple(map(str, _get(header, "imatrix.datasets", []))),
        _get(header, "imatrix.chunk_count", 0),
        _get(header, "imatrix.chunk_size", 0),
        _aliases(name, header, entries),
        tuple(map(str, _get(header, KEYS["weights"], []))),
        entries,
        data[: header.data_offset],
    )


def _get(header: _core.Header, key: str, default: Any) -> Any:
    value = header.get(key) if key in header else default
    return value if isinstance(value, type(default)) else default


def _entries(name: str, data: mmap.mmap, header: _core.Header) -> dict[str, MomentsEntry]:
    tensors = {info.name: info for info in header.tensors()}
    entries = {}
    for sums_name in (known for known in tensors if known.endswith(SUMS)):
        tensor = sums_name.removesuffix(SUMS)
        if tensor + ROWS not in tensors:
            raise ImatrixError(f"{name}: the counts of {tensor} are missing.", _AGAIN)
        sums = _values(name, data, header, tensors[sums_name], "F32")
        rows = _values(name, data, header, tensors[tensor + ROWS], "I64")
        values, rest = divmod(sums.size, rows.size)
        columns = (isqrt(8 * values + 1) - 1) // 2
        if rest or triangle(columns) != values:
            raise ImatrixError(
                f"{name}: {tensor} has {sums.size} sums, which are not the triangles of "
                f"{rows.size} matrices.",
                _AGAIN,
            )
        if rows.min() < 0:
            raise ImatrixError(
                f"{name} is not complete: the sums of {tensor} are missing.",
                "give the command that began it again, which goes on from there",
            )
        entries[tensor] = MomentsEntry(name, tensor, columns, rows, sums.reshape(rows.size, -1))
    if not entries:
        raise ImatrixError(f"{name} holds no second moments.", _AGAIN)
    return entries


def _values(
    name: str, data: mmap.mmap, header: _core.Header, info: _core.TensorInfo, kind: str
) -> npt.NDArray[Any]:
    if info.type != kind or info.bytes == 0:
        raise ImatrixError(f"{name}: {info.name} is not {kind}.", _AGAIN)
    start = header.data_offset + info.offset
    if start + info.bytes > len(data):
        raise ImatrixError(
            f"{name} is truncated: the data of {info.name} is missing.",
            "copy or write the file again",
        )
    type_ = np.dtype({"F32": "<f4", "I64": "<i8"}[kind])
    return np.frombuffer(data, type_, info.bytes // type_.itemsize, start)


def _aliases(name: str, header: _core.Header, entries: Iterable[str]) -> dict[str, str]:
    """From a flat array of pairs: a tensor, and the one with the same inputs."""
    flat = [str(part) for part in _get(header, KEYS["same"], [])]
    aliases = dict(zip(flat[::2], flat[1::2], strict=False))
    known = set(entries)
    if len(flat) % 2 or not known.issuperset(aliases.values()) or known & aliases.keys():
        raise ImatrixError(f"{name}: which tensors have the same inputs is not clear.", _AGAIN)
    return aliases
