"""Which model an importance matrix was made of: a digest that a changed weight changes too."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

from apex.errors import ModelFileError
from apex.sources import HuggingFaceModel, Model, ModelFile

__all__ = ["earlier_digest", "model_digest"]

_SAMPLES = 4
_SAMPLE_BYTES = 4096
_FOLDER_SAMPLES = 64  # of each file


def model_digest(file: Model) -> str:
    """A digest of a model's tensors: names, shapes, types, sizes and a sample of every one's data.

    The sample is 16 KiB from four places of each tensor: for a model of 1,000 tensors 16 MiB,
    however large it is. Of a Hugging Face folder, the headers and a sample of every file. Raises
    ModelFileError.
    """
    if not isinstance(file, ModelFile):
        return _folder_digest(file)
    digest = hashlib.sha256()
    for tensor in file.tensors:
        digest.update(f"{tensor.name} {tensor.shape} {tensor.type} {tensor.bytes};".encode())
    for sample in _samples(file):
        digest.update(sample)
    return "sampled:" + digest.hexdigest()


def _folder_digest(model: HuggingFaceModel) -> str:
    digest = hashlib.sha256(model.reference.digest.encode())
    for path in model.files:
        try:
            with path.open("rb", buffering=0) as data:
                last = max(path.stat().st_size - _SAMPLE_BYTES, 0)
                for sample in range(_FOLDER_SAMPLES):
                    data.seek(last * sample // (_FOLDER_SAMPLES - 1))
                    digest.update(data.read(_SAMPLE_BYTES))
        except OSError as error:
            raise ModelFileError(
                f"{path} cannot be read: {error.strerror}.", "check the path"
            ) from None
    return "sampled:" + digest.hexdigest()


def _samples(file: ModelFile) -> Iterator[bytes]:
    for index, path in enumerate(file.files):
        try:
            with path.open("rb", buffering=0) as data:
                if hasattr(os, "posix_fadvise"):  # no reading ahead of what is not wanted
                    os.posix_fadvise(data.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
                for tensor in file.tensors:
                    if tensor.shard != index:
                        continue
                    last = max(tensor.bytes - _SAMPLE_BYTES, 0)
                    for sample in range(_SAMPLES):
                        data.seek(file.offsets[tensor.name] + last * sample // (_SAMPLES - 1))
                        yield data.read(min(_SAMPLE_BYTES, tensor.bytes))
        except OSError as error:
            raise ModelFileError(
                f"{path} cannot be read: {error.strerror}.", "check the path"
            ) from None


def earlier_digest(file: ModelFile) -> str:
    """What apex wrote before it looked at weights: a digest of the tensor table and file sizes."""
    digest = hashlib.sha256()
    for tensor in file.tensors:
        digest.update(f"{tensor.name} {tensor.shape} {tensor.type};".encode())
    for part in file.files:
        digest.update(f"{part.stat().st_size};".encode())
    return digest.hexdigest()
