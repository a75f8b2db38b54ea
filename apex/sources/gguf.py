"""A model in one GGUF file or in shards: its metadata and its tensor table, checked."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from apex import _core
from apex.errors import ModelFileError

__all__ = ["Metadata", "ModelFile", "Tensor", "open_model", "shard_path"]

SPLIT_NO = "split.no"
SPLIT_COUNT = "split.count"
SPLIT_TENSORS_COUNT = "split.tensors.count"

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_MAX_SHARDS = 65535


@dataclass(frozen=True)
class Tensor:
    """One tensor of a model.

    Attributes:
        name: as in the file.
        shape: dimensions in ggml's order, columns first, without trailing ones.
        type: ggml type, upper case.
        bytes: size of the data.
        file: index of the shard that holds it.
        offset: where its data starts in that file, in bytes.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    bytes: int
    file: int
    offset: int

    @property
    def columns(self) -> int:
        """Weights in a row."""
        return self.shape[0]

    @property
    def experts(self) -> int:
        """Number of matrices, each with its own importance: the third dimension, else 1."""
        return self.shape[2] if len(self.shape) > 2 else 1

    @property
    def rows(self) -> int:
        """Rows of all matrices together."""
        return prod(self.shape[1:])

    @property
    def weights(self) -> int:
        """Number of weights."""
        return prod(self.shape)


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
    """A model whose header is known and sound.

    Attributes:
        path: the file that was opened; of shards, the first.
        files: all files, in the order of their shards.
        header: the header of the first file.
        tensors: all tensors, in the order of the files.
        missing: tensors whose data lies beyond the end of their file.
    """

    path: Path
    files: tuple[Path, ...]
    header: _core.Header
    tensors: tuple[Tensor, ...]
    missing: tuple[Tensor, ...]

    @property
    def metadata(self) -> Metadata:
        """The metadata of the first file, which is that of the model."""
        return Metadata(self.header)

    @property
    def architecture(self) -> str:
        """general.architecture, or an empty string."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def is_projector(self) -> bool:
        """Whether this is a multimodal projector (mmproj) and no language model."""
        return self.architecture == "clip" or self.metadata.get("general.type") == "mmproj"

    @property
    def weights(self) -> int:
        """Number of weights."""
        return sum(tensor.weights for tensor in self.tensors)

    @property
    def bytes(self) -> int:
        """Size of all tensors' data."""
        return sum(tensor.bytes for tensor in self.tensors)

    def require_data(self) -> None:
        """Raise ModelFileError unless every tensor's data is in its file."""
        if self.missing:
            first = self.missing[0]
            raise ModelFileError(
                f"{self.files[first.file]} is truncated: the data of {len(self.missing)} of "
                f"{len(self.tensors)} tensors is missing, {first.name} first.",
                "download or copy the file again",
            )


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
    tensors, missing = _tensor_table(files, headers)
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
    return ModelFile(first, files, header, tensors, missing)


def _read_header(path: Path) -> _core.Header:
    try:
        header = _core.Header.read(str(path))
        names = [*header.keys(), *(info.name for info in header.tensors())]  # decodes them
    except UnicodeDecodeError:
        raise ModelFileError(
            f"{path} is not a sound GGUF file: the name of a key or tensor is no text.",
            "download or convert it again",
        ) from None
    except _core.HeaderError as error:
        raise ModelFileError(
            f"{path} is not a sound GGUF file: {error}.", "download or convert it again"
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
        raise ModelFileError(f"The metadata key {key} is no number.", "the file is damaged")
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


def _tensor_table(
    files: tuple[Path, ...], headers: list[_core.Header]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    tensors: dict[str, Tensor] = {}
    missing = []
    for index, header in enumerate(headers):
        for info in header.tensors():
            offset = header.data_offset + info.offset
            tensor = Tensor(info.name, info.shape, info.type, info.bytes, index, offset)
            if tensor.weights == 0:
                raise ModelFileError(
                    f"{files[index]}: tensor {info.name} has no weights.", "the file is damaged"
                )
            if info.name in tensors:
                raise ModelFileError(
                    f"{files[index]}: tensor {info.name} is there twice.", "the file is damaged"
                )
            tensors[info.name] = tensor
            if offset + info.bytes > header.file_bytes:
                missing.append(tensor)
    return tuple(tensors.values()), tuple(missing)
