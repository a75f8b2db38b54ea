"""A model in Hugging Face form as a source: what converting it would give, tensor by tensor."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.errors import ModelFileError, UsageError
from apex.sources.gguf import Metadata, is_projector
from apex.sources.huggingface.cache import PartCache
from apex.sources.huggingface.checkpoint import Checkpoint, open_checkpoint
from apex.sources.huggingface.converter import MTP, OUT_TYPES, Conversion, run_converter
from apex.sources.huggingface.hub import HubFolder, OnFetched, is_hub_id
from apex.sources.huggingface.lazy import Lazy
from apex.sources.source import SourceReference, Tensor

__all__ = ["HuggingFaceModel", "open_huggingface"]


class HuggingFaceModel:
    """A model in a Hugging Face folder; a ``Source`` of what upstream's converter makes of it.

    Attributes:
        path: the folder; of a model of the Hub, its ID with the commit.
        header_bytes: what its GGUF file begins with, up to the data.
        tensors: the tensors of that file, in its order.
        alignment: to how many bytes their data is aligned.
        missing: none; weights that are missing are an error when the folder is opened.
    """

    missing: tuple[Tensor, ...] = ()

    def __init__(
        self, checkpoint: Checkpoint, conversion: Conversion, hub: HubFolder | None = None
    ) -> None:
        self.path = checkpoint.folder if hub is None else Path(hub.location)
        self._hub = hub
        self.header_bytes = conversion.header
        self.tensors = conversion.tensors
        self.alignment = conversion.alignment
        self._checkpoint = checkpoint
        self._values = {
            tensor.name: Lazy(value, conversion.torch, self._read_range)
            for tensor, value in zip(conversion.tensors, conversion.values, strict=True)
        }
        self._cache = PartCache()

    @property
    def is_of_hub(self) -> bool:
        """Whether its weights may have to be downloaded."""
        return self._hub is not None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files here that it is made of, which no output may replace."""
        return self._checkpoint.files if self._hub is None else ()

    @cached_property
    def header(self) -> _core.Header:
        """The header of its GGUF file."""
        return self._parsed(_core.Header.read)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata by key."""
        return Metadata(self.header)

    @property
    def architecture(self) -> str:
        """general.architecture."""
        return str(self.metadata["general.architecture"])

    @property
    def is_projector(self) -> bool:
        """Whether this is a multimodal projector (mmproj) and not a language model."""
        return is_projector(self.metadata)

    @property
    def bytes(self) -> int:
        """Size of all tensors' data."""
        return sum(tensor.bytes for tensor in self.tensors)

    @property
    def weights(self) -> int:
        """Number of weights."""
        return sum(tensor.weights for tensor in self.tensors)

    @cached_property
    def reference(self) -> SourceReference:
        """What a plan keeps of it; the digest covers the headers and the sizes."""
        checkpoint = self._checkpoint
        digest = hashlib.sha256(self.header_bytes)
        for path, size in zip(checkpoint.files, checkpoint.file_bytes, strict=True):
            digest.update(f"{path.name} {size};".encode())
        for header in checkpoint.headers:
            digest.update(header)
        return SourceReference(
            "huggingface",
            str(self.path),
            checkpoint.folder.resolve().name,
            self.architecture,
            digest.hexdigest(),
            tuple(map(str, self.files)),
            checkpoint.file_bytes if self.files else (),
            self.bytes,
            self.weights,
        )

    def new_header(self) -> _core.Header:
        """The metadata without tensors, read anew."""
        return self._parsed(_core.Header.read_metadata)

    def _parsed(self, read: Any) -> _core.Header:
        with tempfile.NamedTemporaryFile(prefix="apex-header-") as file:
            file.write(self.header_bytes)
            file.flush()
            header: _core.Header = read(os.fsencode(file.name))
            return header

    def fetch(self, progress: OnFetched = None) -> None:
        """Download the weights of a model of the Hub, as far as they are not here.

        progress: called with bytes that are here, bytes in all and a file. Raises ModelFileError.
        """
        if self._hub is not None:
            self._hub.fetch(progress)

    def require_data(self) -> None:
        """Raise ModelFileError where a file has another size than when the folder was opened."""
        for path, size in zip(self._checkpoint.files, self._checkpoint.file_bytes, strict=True):
            try:
                is_same = path.stat().st_size == size
            except OSError:
                is_same = False
            if not is_same:
                raise ModelFileError(
                    f"{path} has changed since it was opened.", "is something else writing to it?"
                )

    def read(self, tensor: Tensor, first_row: int, out: memoryview) -> None:
        """Fill ``out`` with whole rows, from ``first_row`` on; from any thread.

        What must be evaluated as a whole, or as a whole expert, is kept until its rows are read.
        """
        value = self._values[tensor.name]
        rows = len(out) // tensor.row_bytes
        count = value.shape[0] if value.is_divisible else 1
        each = tensor.rows // count  # rows of an element of the first dimension
        start, stop = first_row // each, -(-(first_row + rows) // each)
        skipped = (first_row - start * each) * tensor.row_bytes
        if not value.is_divisible:
            start, stop = 0, value.shape[0]

        def make() -> npt.NDArray[np.uint8]:
            try:
                return value.part(start, stop)
            except ModelFileError:
                raise
            except Exception as error:
                raise ModelFileError(
                    f"llama.cpp's converter fails on {tensor.name} of {self.path}: {error}.",
                    "the weights may be damaged",
                ) from None

        key = (tensor.name, start, stop)
        data = self._cache.part(key, len(out), make)
        np.frombuffer(out, np.uint8)[:] = data[skipped : skipped + len(out)]

    def _read_range(self, path: Path, offset: int, size: int) -> npt.NDArray[np.uint8]:
        if self._hub is not None:
            path = self._hub.file(path.name)
        data = np.empty(size, np.uint8)
        view = data.data
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(offset)
                while view:
                    count = file.readinto(view)
                    if not count:
                        raise ModelFileError(
                            f"{path} ended while it was read.", "is something else writing to it?"
                        )
                    view = view[count:]
        except OSError as error:
            raise ModelFileError(
                f"Reading {path} failed: {error.strerror or error}.", "check the disk"
            ) from None
        return data


def open_huggingface(
    model: str | os.PathLike[str],
    out_type: str = "auto",
    *,
    as_projector: bool = False,
    mtp: str = "keep",
    trusts_code: bool = False,
) -> HuggingFaceModel:
    """Read configuration, vocabulary and headers of a model, and no weights.

    model: a folder, or an ID of the Hub, ``OWNER/NAME`` or ``OWNER/NAME@REVISION``.
    out_type: what upstream's converter calls --outtype: auto, bf16, f16, f32 or q8_0.
    as_projector: the multimodal projector (mmproj) instead of the language model.
    mtp: what becomes of a multi-token-prediction head: keep, none, or only the head.
    trusts_code: whether Python files of the model may be run.

    Raises ModelFileError, and UsageError where the extra ``hf`` is not installed.
    """
    if out_type not in OUT_TYPES:
        raise UsageError(f"{out_type} is not an output type.", f"one of {', '.join(OUT_TYPES)}")
    if mtp not in MTP:
        raise UsageError(f"mtp={mtp!r} means nothing.", f"one of {', '.join(MTP)}")
    hub = HubFolder(os.fspath(model)) if is_hub_id(model) else None
    with nullcontext() if hub is None else hub.naming():
        checkpoint = open_checkpoint(Path(model) if hub is None else hub.path)
        conversion = run_converter(
            checkpoint, out_type, as_projector=as_projector, mtp=mtp, trusts=trusts_code
        )
    return HuggingFaceModel(checkpoint, conversion, hub)
