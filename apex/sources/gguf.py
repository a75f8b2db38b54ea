"""A model in one GGUF file or in shards: its metadata and its tensor table, checked."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Any

from apex import _core
from apex.errors import ModelFileError
from apex.sources.source import SourceReference, Tensor

__all__ = ["Metadata", "ModelFile", "open_model", "shard_path"]

SPLIT_NO = "split.no"
SPLIT_COUNT = "split.count"
SPLIT_TENSORS_COUNT = "split.tensors.count"

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_MAX_SHARDS = 65535
_HASH_BYTES = 1 << 20


class Metadata(Mapping[str, Any]):
    """The metadata of a header, converted value by value when asked for.

    Values are int, float, bool, str, list of str, or a numpy array.
    """

    def __init__(self, header: _core.Header) -> None:
        self._header = header

    def __getitem__(self, key: str) -> Any:
        return self._header.get(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._header.keys())

    def __len__(self) -> int:
        return len(self._header.keys())

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key in self._header


@dataclass(frozen=True)
class ModelFile:
    """A model in GGUF files whose headers are known and sound; a ``Source``.

    Attributes:
        path: the file that was opened; of shards, the first.
        files: all files, in the order of their shards.
        headers: their headers.
        tensors: all tensors, in the order of the files.
        offsets: by name, where a tensor's data starts in its file, in bytes.
        missing: tensors whose data lies beyond the end of their file.
    """

    path: Path
    files: tuple[Path, ...]
    headers: tuple[_core.Header, ...]
    tensors: tuple[Tensor, ...]
    offsets: Mapping[str, int]
    missing: tuple[Tensor, ...]

    @property
    def header(self) -> _core.Header:
        """The header of the first file, which has the model's metadata."""
        return self.headers[0]

    @property
    def metadata(self) -> Metadata:
        """The metadata of the first file, which is that of the model."""
        return Metadata(self.header)

    @property
    def alignment(self) -> int:
        """To how many bytes the data of an output's tensors is aligned."""
        return self.header.alignment

    @property
    def architecture(self) -> str:
        """general.architecture, or an empty string."""
        return str(self.metadata.get("general.architecture", ""))

    def beside(self, ending: str) -> Path:
        """What was made of this model is kept in its folder, as ``NAME`` and an ending of its own.

        Which endings: ``.imatrix.gguf``, ``.sensitivity.json``.
        """
        return self.path.with_name(self.path.name.removesuffix(".gguf") + ending)

    @property
    def is_projector(self) -> bool:
        """Whether this is a multimodal projector (mmproj) and not a language model."""
        return is_projector(self.metadata)

    @property
    def weights(self) -> int:
        """Number of weights."""
        return sum(tensor.weights for tensor in self.tensors)

    @property
    def bytes(self) -> int:
        """Size of all tensors' data."""
        return sum(tensor.bytes for tensor in self.tensors)

    @cached_property
    def reference(self) -> SourceReference:
        """What a plan keeps of the model; the digest covers the headers and the sizes."""
        digest = hashlib.sha256()
        for path, header in zip(self.files, self.headers, strict=True):
            digest.update(f"{header.file_bytes} {header.data_offset};".encode())
            with _opened(path) as file:
                left = header.data_offset
                while left > 0 and (part := file.read(min(left, _HASH_BYTES))):
                    digest.update(part)
                    left -= len(part)
        return SourceReference(
            "gguf",
            str(self.path),
            self.path.name,
            self.architecture,
            digest.hexdigest(),
            tuple(map(str, self.files)),
            tuple(header.file_bytes for header in self.headers),
            self.bytes,
            self.weights,
        )

    def new_header(self) -> _core.Header:
        """The metadata without tensors, read anew, so that every byte of it is kept."""
        try:
            return _core.Header.read_metadata(os.fsencode(self.path))
        except (_core.HeaderError, OSError) as error:
            raise _changed(self.path, error) from None

    def require_data(self) -> None:
        """Raise ModelFileError unless every tensor's data is in its file."""
        if self.missing:
            first = self.missing[0]
            raise ModelFileError(
                f"{self.files[first.shard]} is truncated: the data of {len(self.missing)} of "
                f"{len(self.tensors)} tensors is missing, {first.name} first.",
                "download or copy the file again",
            )

    def read(self, tensor: Tensor, first_row: int, out: memoryview) -> None:
        """Fill ``out`` with whole rows, from ``first_row`` on; from any thread."""
        path = self.files[tensor.shard]
        offset = self.offsets[tensor.name] + first_row * tensor.row_bytes
        with _opened(path) as file:
            _advise(file.fileno(), offset, len(out))
            try:
                file.seek(offset)
                while out:
                    count = file.readinto(out)
                    if not count:
                        raise ModelFileError(
                            f"{path} ended while it was read.", "is something else writing to it?"
                        )
                    out = out[count:]
            except OSError as error:
                raise ModelFileError(
                    f"Reading {path} failed: {error.strerror or error}.", "check the disk"
                ) from None


def is_projector(metadata: Mapping[str, Any]) -> bool:
    """Whether the metadata is that of a multimodal projector (mmproj)."""
    kind = metadata.get("general.type")
    return metadata.get("general.architecture") == "clip" or kind == "mmproj"


def _opened(path: Path) -> FileIO:
    try:
        return FileIO(path, "rb")
    except OSError as error:
        raise _changed(path, error) from None


def _changed(path: Path, error: Exception) -> ModelFileError:
    return ModelFileError(
        f"{path} cannot be read any more: {getattr(error, 'strerror', None) or error}.",
        "is it being moved or written by another program?",
    )


def _advise(descriptor: int, offset: int, size: int) -> None:
    """Let the system fetch the range in large steps."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_WILLNEED)


def shard_path(path: Path, index: int, count: int) -> Path:
    """The name of shard ``index`` (from 0) of ``count``, as llama.cpp forms it from ``path``."""
    stem = path.name.removesuffix(".gguf")
    return path.with_name(f"{stem}-{index + 1:05d}-of-{count:05d}.gguf")


def open_model(path: str | os.PathLike[str]) -> ModelFile:
    """Read and check the header of a model, and of its other shards where it has any.

    Data may be missing (see ``ModelFile.missing``), so that a header alone can be planned for.
    Raises ModelFileError.
    """
    first = Path(path)
    header = _read_header(first)
    count = _split_value(header, SPLIT_COUNT, 1)
    if count <= 1:
        files: tuple[Path, ...] = (first,)
        headers = [header]
    else:
        files = _shards(first, header, count)
        headers = [header, *(_read_header(file) for file in files[1:])]
        for index, (file, shard) in enumerate(zip(files, headers, strict=True)):
            number = _split_value(shard, SPLIT_NO, -1)
            if number != index:
                raise ModelFileError(
                    f"{file} says that it is shard {number + 1}, its name says {index + 1}.",
                    "restore the names that the shards had",
                )
    tensors, offsets, missing = tensor_table(files, headers)
    if not tensors:
        raise ModelFileError(f"{first} has no tensors.", "it may be a vocabulary without a model")
    expected = (
        _split_value(header, SPLIT_TENSORS_COUNT, len(tensors)) if count > 1 else len(tensors)
    )
    if expected != len(tensors):
        raise ModelFileError(
            f"The shards of {first} hold {len(tensors)} tensors, {expected} are expected.",
            "the shards are not all of the same model",
        )
    return ModelFile(first, files, tuple(headers), tensors, offsets, missing)


def _read_header(path: Path) -> _core.Header:
    try:
        if (path / "config.json").is_file():
            raise ModelFileError(
                f"{path} is a Hugging Face model, and this takes a GGUF file.",
                f"apex convert {path} -o model.gguf makes one",
            )
        if not path.is_file() and path.exists():  # a pipe would be waited for
            raise ModelFileError(f"{path} is not a regular file.", "name a GGUF file")
        header = _core.Header.read(os.fsencode(path))
        names = [*header.keys(), *(info.name for info in header.tensors())]  # decodes them
    except UnicodeDecodeError:
        raise ModelFileError(
            f"{path} is damaged, or is not a GGUF file: the name of a key or tensor is not text.",
            "download or convert it again",
        ) from None
    except _core.HeaderError as error:
        raise ModelFileError(
            f"{path} is damaged, or is not a GGUF file: {error}.", "download or convert it again"
        ) from None
    except OSError as error:
        raise ModelFileError(
            f"{path} cannot be read: {error.strerror}.", "check the path"
        ) from None
    if not all(names):
        raise ModelFileError(f"{path} has a tensor without a name.", "download or convert it again")
    return header


def _split_value(header: _core.Header, key: str, default: int) -> int:
    value = header.get(key) if key in header else default
    if not isinstance(value, int):
        raise ModelFileError(f"The metadata key {key} is not a number.", "the file is damaged")
    return value


def _shards(first: Path, header: _core.Header, count: int) -> tuple[Path, ...]:
    if count > _MAX_SHARDS:
        raise ModelFileError(f"{first} claims {count} shards.", "the file is damaged")
    match = _SHARD.search(first.name)
    if match is None or int(match[2]) != count:
        raise ModelFileError(
            f"{first} is one of {count} shards, but is not named like one.",
            "shards are named NAME-00001-of-000NN.gguf",
        )
    whole = first.with_name(first.name[: match.start()] + ".gguf")
    files = tuple(shard_path(whole, index, count) for index in range(count))
    if int(match[1]) != 1:
        raise ModelFileError(f"{first} is not the model's first shard.", f"open {files[0]}")
    absent = [file.name for file in files if not file.exists()]
    if absent:
        raise ModelFileError(
            f"{len(absent)} of {count} shards are missing: {', '.join(absent)}.",
            "keep all shards in one folder",
        )
    return files


def tensor_table(
    files: Sequence[Path], headers: Sequence[_core.Header]
) -> tuple[tuple[Tensor, ...], dict[str, int], tuple[Tensor, ...]]:
    """All tensors, the offsets of their data by name, and those whose data is missing."""
    tensors: dict[str, Tensor] = {}
    offsets: dict[str, int] = {}
    missing = []
    for index, header in enumerate(headers):
        for info in header.tensors():
            tensor = Tensor(info.name, info.shape, info.type, index)
            if tensor.weights == 0:
                raise ModelFileError(
                    f"{files[index]}: tensor {info.name} has no weights.", "the file is damaged"
                )
            if info.name in tensors:
                raise ModelFileError(
                    f"{files[index]}: tensor {info.name} is there twice.", "the file is damaged"
                )
            tensors[info.name] = tensor
            offsets[info.name] = header.data_offset + info.offset
            if offsets[info.name] + info.bytes > header.file_bytes:
                missing.append(tensor)
    return tuple(tensors.values()), offsets, tuple(missing)
