"""Importance matrices: the files that llama-imatrix writes, in GGUF form and in the older .dat.

The data stays in the file and is mapped: for a large model it would not fit into the memory that
quantizing may use.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.errors import ImatrixError
from apex.files.checks import check_output
from apex.files.output import OutputFile, OutputSet

__all__ = ["ImportanceEntry", "ImportanceMatrix", "load_imatrix", "write_imatrix"]

_SUMS = ".in_sum2"
_COUNTS = ".counts"

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ImportanceEntry:
    """What was collected for one tensor.

    Attributes:
        sums: float32 (experts, columns): sums of squared activations. In a .dat file, whose format
            does not record experts, (1, values of all experts).
        counts: float32 (experts,): how many rows each sum was taken over.
    """

    sums: Floats
    counts: Floats

    @property
    def size(self) -> int:
        """Values of all experts."""
        return int(self.sums.size)

    def values(self, experts: int) -> Floats:
        """The importance, float32 (experts, columns): the mean of the squared activations.

        An expert that no token reached gets 1 everywhere, as in llama-quantize.
        """
        counts = np.rint(self.counts).astype(np.float32)[:, np.newaxis]
        reached = counts > 0
        divisor = np.where(reached, counts, np.float32(1))
        result = np.where(reached, self.sums / divisor, np.float32(1)).astype(np.float32)
        return np.ascontiguousarray(result.reshape(experts, -1))

    @cached_property
    def unreached(self) -> tuple[int, ...]:
        """The experts whose count is zero; unknown, so none, in a .dat file."""
        return tuple(np.flatnonzero(np.rint(self.counts) <= 0).tolist())

    def is_sound(self) -> bool:
        """Whether all values are finite and not negative."""
        sums, counts = self.sums, self.counts
        finite = bool(np.isfinite(sums).all() and np.isfinite(counts).all())
        return finite and bool(sums.min(initial=0) >= 0 and counts.min(initial=0) >= 0)


@dataclass(frozen=True)
class ImportanceMatrix:
    """An importance matrix file.

    Attributes:
        path: as the caller gave it.
        entries: by tensor name, in the file's order.
        datasets: the names of the calibration texts.
        chunk_count: number of chunks that were run, 0 if unknown.
        is_legacy: whether the file is a .dat.
        chunk_size: tokens of a chunk, 0 if unknown.
        notes: further metadata of the file, by key.
        content: the whole file, mapped; empty for a matrix that is not in a file.
    """

    path: str
    entries: Mapping[str, ImportanceEntry]
    datasets: tuple[str, ...]
    chunk_count: int
    is_legacy: bool
    chunk_size: int = 0
    notes: Mapping[str, Any] = field(default_factory=dict)
    content: mmap.mmap | bytes = field(default=b"", repr=False, compare=False)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file, in hexadecimal; empty for a matrix that is not in a file."""
        return hashlib.sha256(self.content).hexdigest() if len(self.content) else ""


def load_imatrix(path: str | os.PathLike[str]) -> ImportanceMatrix:
    """Open an importance matrix of either form. Raises ImatrixError.

    Whether it fits a model, and whether its values are finite, is checked when a plan is made.
    """
    name = os.fspath(path)
    try:
        if not Path(name).is_file() and Path(name).exists():  # a pipe would be waited for
            raise ImatrixError(f"{name} is not a regular file.", "name an importance matrix")
        with Path(name).open("rb") as file:
            magic = file.read(4)
            if not magic:
                raise ImatrixError(f"{name} is empty.", "write the importance matrix again")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ImatrixError(f"{name} cannot be read: {error.strerror}.", "check the path") from None
    return _load_gguf(name, data) if magic == b"GGUF" else _load_legacy(name, data)


def _load_gguf(name: str, data: mmap.mmap) -> ImportanceMatrix:
    try:
        header = _core.Header.read(os.fsencode(name))
    except _core.HeaderError as error:
        raise ImatrixError(
            f"{name} is damaged: {error}.", "write the importance matrix again"
        ) from None
    tensors = {info.name: info for info in header.tensors()}
    entries = {}
    for sums_name, sums in tensors.items():
        if not sums_name.endswith(_SUMS):
            continue
        tensor_name = sums_name.removesuffix(_SUMS)
        counts = tensors.get(tensor_name + _COUNTS)
        if counts is None:
            raise ImatrixError(
                f"{name}: the counts of {tensor_name} are missing.",
                "write the importance matrix again",
            )
        sum_values = _floats(name, data, header, sums)
        count_values = _floats(name, data, header, counts)
        if sum_values.size % count_values.size:
            raise ImatrixError(
                f"{name}: {tensor_name} has {sum_values.size} sums for {count_values.size} counts.",
                "write the importance matrix again",
            )
        entries[tensor_name] = ImportanceEntry(
            sum_values.reshape(count_values.size, -1), count_values
        )
    if not entries:
        raise ImatrixError(
            f"{name} is a GGUF file, but not an importance matrix.",
            "apex imatrix and llama-imatrix write importance matrices",
        )
    return ImportanceMatrix(
        name,
        entries,
        tuple(map(str, _key(header, "imatrix.datasets", list, []))),
        _key(header, "imatrix.chunk_count", int, 0),
        is_legacy=False,
        chunk_size=_key(header, "imatrix.chunk_size", int, 0),
        notes={key: header.get(key) for key in header.keys() if key.startswith("apex.")},  # noqa: SIM118
        content=data,
    )


def _floats(name: str, data: mmap.mmap, header: _core.Header, info: _core.TensorInfo) -> Floats:
    start = header.data_offset + info.offset
    if info.type != "F32" or info.bytes == 0:
        raise ImatrixError(f"{name}: {info.name} is not F32.", "write the importance matrix again")
    if start + info.bytes > len(data):
        raise ImatrixError(
            f"{name} is truncated: the data of {info.name} is missing.",
            "copy or write the file again",
        )
    return np.frombuffer(data, np.dtype("<f4"), info.bytes // 4, start)


def _key(header: _core.Header, key: str, kind: type, default: Any) -> Any:
    value = header.get(key) if key in header else default
    return value if isinstance(value, kind) else default


def _load_legacy(name: str, data: mmap.mmap) -> ImportanceMatrix:
    """int32 entries; per entry: int32 length, name, int32 calls, int32 values, float32 sums.

    Then, optionally, int32 chunks, int32 length and the name of the data set.
    """
    position = 0

    def number() -> int:
        nonlocal position
        (value,) = struct.unpack_from("<i", data, position)
        position += 4
        return int(value)

    def text(length: int) -> str:
        nonlocal position
        if not 0 <= length <= len(data) - position:
            raise ValueError
        value = data[position : position + length].decode("utf-8", "replace")
        position += length
        return value.split("\0", 1)[0]

    entries = {}
    chunk_count = 0
    datasets: tuple[str, ...] = ()
    try:
        count = number()
        if count < 1:
            raise ValueError
        for _ in range(count):
            tensor_name = text(number())
            calls, size = number(), number()
            if size < 1:
                raise ValueError
            sums = np.frombuffer(data, np.dtype("<f4"), size, position)
            position += 4 * size
            # A file without counts holds means already.
            entries[tensor_name] = ImportanceEntry(
                sums.reshape(1, -1), np.array([max(calls, 1)], np.float32)
            )
        if position + 4 <= len(data):
            chunk_count = number()
        if position + 4 <= len(data):
            dataset = text(number())
            datasets = (dataset,) if dataset else ()
    except (ValueError, struct.error):
        raise ImatrixError(
            f"{name} is not an importance matrix, or is truncated.",
            "give a file that llama-imatrix wrote, in GGUF form or as .dat",
        ) from None
    return ImportanceMatrix(name, entries, datasets, chunk_count, is_legacy=True, content=data)


def write_imatrix(
    path: Path,
    entries: Mapping[str, ImportanceEntry],
    *,
    datasets: Sequence[str],
    chunk_count: int,
    chunk_size: int,
    legacy: bool = False,
    overwrite: bool = False,
    notes: Mapping[str, str | int] | None = None,
    inputs: Iterable[str | os.PathLike[str]] = (),
) -> Path:
    """Write an importance matrix as llama-imatrix does, whole or not at all; returns the path.

    legacy: the .dat form. notes: further keys of the GGUF form. inputs: files that were read for it
    and must not be replaced, as for ``check_output``. Raises OutputError.
    """
    check_output([path], inputs, overwrite=overwrite)
    with OutputSet([path]) as output:
        if legacy:
            _write_legacy(output.files[0], entries, datasets, chunk_count, chunk_size)
        else:
            header = _core.Header.empty()
            header.set("general.type", "str", "imatrix")
            header.set("imatrix.datasets", "arr[str]", list(datasets))
            header.set("imatrix.chunk_count", "u32", chunk_count)
            header.set("imatrix.chunk_size", "u32", chunk_size)
            for key, value in (notes or {}).items():
                header.set(key, "u32" if isinstance(value, int) else "str", value)
            _write_gguf(output.files[0], header, entries)
        output.commit()
    return path


def _write_gguf(
    file: OutputFile, header: _core.Header, entries: Mapping[str, ImportanceEntry]
) -> None:
    data = []
    for name, entry in sorted(entries.items()):
        matrices, columns = entry.sums.shape
        header.add_tensor(name + _SUMS, [columns, matrices], "F32")
        header.add_tensor(name + _COUNTS, [1, matrices], "F32")
        data += [entry.sums, entry.counts]
    file.write(header.to_bytes())
    for values in data:
        file.write(np.ascontiguousarray(values, "<f4").tobytes())
        file.pad(header.alignment)


def _write_legacy(
    file: OutputFile,
    entries: Mapping[str, ImportanceEntry],
    datasets: Sequence[str],
    chunk_count: int,
    chunk_size: int,
) -> None:
    """Means times calls, as tools/imatrix stores them; an expert without tokens gets ones."""
    filled = {name: entry for name, entry in sorted(entries.items()) if entry.counts.any()}
    file.write(struct.pack("<i", len(filled)))
    for name, entry in filled.items():
        encoded = name.encode()
        calls = -(-int(entry.counts.max()) // chunk_size)  # rounded up, so never zero
        file.write(struct.pack("<i", len(encoded)) + encoded)
        file.write(struct.pack("<ii", calls, entry.size))
        means = entry.values(len(entry.counts)) * np.float32(calls)
        file.write(means.astype("<f4").tobytes())
    dataset = (datasets[-1] if datasets else "").encode()
    file.write(struct.pack("<ii", chunk_count, len(dataset)) + dataset)
