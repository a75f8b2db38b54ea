"""What a source of tensors is: a header, a tensor table, and rows on request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

from apex import _core
from apex.types import row_bytes, tensor_bytes

__all__ = ["Source", "SourceReference", "Tensor"]


@dataclass(frozen=True)
class Tensor:
    """One tensor of a model.

    Attributes:
        name: as in the source.
        shape: dimensions in ggml's order, columns first, without trailing ones.
        type: ggml type, upper case.
        shard: index of the part of the source that holds it; 0 where there is one part.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    shard: int = 0

    @property
    def bytes(self) -> int:
        """Size of the data."""
        return tensor_bytes(self.type, self.shape)

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return row_bytes(self.type, self.columns)

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


@dataclass(frozen=True)
class SourceReference:
    """How a plan names its source: pure data, with which the source can be found again.

    Attributes:
        kind: "gguf" for local GGUF files; other sources choose a word of their own.
        location: where it is, such as the path of the file that was opened.
        name: for people, such as the file's name.
        architecture: general.architecture, or an empty string.
        digest: changes when metadata, tensors or sizes do; two sources with the same digest are
            planned alike.
        files: the local files that it is read from, which no output may overwrite.
        file_bytes: their sizes.
        bytes: size of all tensors' data.
        weights: number of weights.
    """

    kind: str
    location: str
    name: str
    architecture: str
    digest: str
    files: tuple[str, ...]
    file_bytes: tuple[int, ...]
    bytes: int
    weights: int

    @property
    def path(self) -> Path:
        """The location as a path."""
        return Path(self.location)

    def to_dict(self) -> dict[str, Any]:
        """As data for JSON."""
        return {**asdict(self), "files": list(self.files), "file_bytes": list(self.file_bytes)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SourceReference:
        """From what ``to_dict`` gave. Raises KeyError, TypeError or ValueError for other data."""
        return cls(
            kind=str(data["kind"]),
            location=str(data["location"]),
            name=str(data["name"]),
            architecture=str(data["architecture"]),
            digest=str(data["digest"]),
            files=tuple(map(str, data["files"])),
            file_bytes=tuple(map(int, data["file_bytes"])),
            bytes=int(data["bytes"]),
            weights=int(data["weights"]),
        )


class Source(Protocol):
    """Where tensors come from. Planning, quantizing and verifying know models by this alone."""

    @property
    def reference(self) -> SourceReference:
        """What a plan keeps of the source."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata by key, as int, float, bool, str, list of str, or numpy array."""

    @property
    def tensors(self) -> Sequence[Tensor]:
        """All tensors, in the order of the source."""

    @property
    def alignment(self) -> int:
        """To how many bytes the data of an output's tensors is aligned."""

    def new_header(self) -> _core.Header:
        """A header with the metadata and without tensors, which the caller may change."""

    def require_data(self) -> None:
        """Raise ModelFileError unless all data is there, as far as that can be known cheaply."""

    def read(self, tensor: Tensor, first_row: int, out: memoryview) -> None:
        """Fill ``out`` with whole rows of a tensor, from ``first_row`` (over all experts) on.

        May be called from several threads at a time. Raises ModelFileError.
        """
