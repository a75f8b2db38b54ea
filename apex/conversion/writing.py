"""Writes a Hugging Face model as a GGUF file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from apex.errors import UsageError
from apex.files import OutputFile, OutputSet, check_output
from apex.sources import HuggingFaceModel, Tensor, open_huggingface

__all__ = ["ConvertResult", "convert", "converted_bytes"]

# Rows are converted in parts of about this size, and of one row or one expert at least.
_PART_BYTES = 64 << 20

# (bytes that are written, bytes in all, the tensor)
OnProgress = Callable[[int, int, str], None] | None


@dataclass(frozen=True)
class ConvertResult:
    """What was written.

    Attributes:
        path: the file.
        bytes: its size.
        tensors: how many tensors it has.
        weights: how many weights.
        architecture: its general.architecture.
        seconds: how long it took.
    """

    path: Path
    bytes: int
    tensors: int
    weights: int
    architecture: str
    seconds: float


def convert(
    model: str | os.PathLike[str] | HuggingFaceModel,
    output: str | os.PathLike[str],
    *,
    out_type: str = "auto",
    as_projector: bool = False,
    mtp: str = "keep",
    trusts_code: bool = False,
    overwrite: bool = False,
    progress: OnProgress = None,
) -> ConvertResult:
    """Write the GGUF file that llama.cpp's converter would write, byte for byte.

    model: a folder, an ID of the Hub, or what ``open_huggingface`` gave, whose type is chosen.
    out_type, as_projector, mtp, trusts_code: as in ``open_huggingface``.
    overwrite: whether an output that exists may be replaced.
    progress: called after every part.

    Everything that can be checked without weights is checked before the first byte is written. The
    output appears under its name when it is complete. Raises ModelFileError, UsageError and
    OutputError.
    """
    started = time.perf_counter()
    path = Path(output)
    if path.is_dir():
        raise UsageError(f"{path} is a folder.", "give the name of a file: -o model.gguf")
    check_output([path], overwrite=overwrite)  # before anything that takes long
    if not isinstance(model, HuggingFaceModel):
        model = open_huggingface(
            model, out_type, as_projector=as_projector, mtp=mtp, trusts_code=trusts_code
        )
    size = converted_bytes(model)
    check_output([path], model.files, overwrite=overwrite, size=size)
    model.require_data()
    with OutputSet([path]) as outputs:
        _write(model, outputs.files[0], progress)
        outputs.commit()
    seconds = time.perf_counter() - started
    return ConvertResult(path, size, len(model.tensors), model.weights, model.architecture, seconds)


def converted_bytes(model: HuggingFaceModel) -> int:
    """The size of the GGUF file."""
    aligned = (-(-tensor.bytes // model.alignment) * model.alignment for tensor in model.tensors)
    return len(model.header_bytes) + sum(aligned)


def _write(model: HuggingFaceModel, file: OutputFile, progress: OnProgress) -> None:
    total, done = model.bytes, 0
    file.write(model.header_bytes)
    for tensor in model.tensors:
        step = _rows_at_once(tensor)
        buffer = np.empty(min(step, tensor.rows) * tensor.row_bytes, np.uint8)
        for first in range(0, tensor.rows, step):
            part = buffer[: min(step, tensor.rows - first) * tensor.row_bytes].data
            model.read(tensor, first, part)
            file.write(part)
            done += len(part)
            if progress is not None:
                progress(done, total, tensor.name)
        file.pad(model.alignment)


def _rows_at_once(tensor: Tensor) -> int:
    """Whole experts where one fits, since they are evaluated as a whole."""
    fitting = max(1, _PART_BYTES // tensor.row_bytes)
    rows = tensor.rows // tensor.experts
    return fitting // rows * rows or fitting
