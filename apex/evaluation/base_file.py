"""Base files of llama-perplexity (--kl-divergence-base): a reference model's log-probabilities.

``_logits_``, int32 context length, vocabulary, chunks, tokens (chunks, context length), then per
chunk and scored position a row of uint16: two float32 (scale, smallest log-probability), one code
per token of the vocabulary, padded to an even number.
"""

from __future__ import annotations

import os
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.errors import UsageError
from apex.files import OutputFile, OutputSet
from apex.inference import Tokens

__all__ = ["BaseFile", "BaseFileWriter", "open_base_file"]

_MAGIC = b"_logits_"


@dataclass(frozen=True)
class BaseFile:
    """A reference model's log-probabilities, mapped.

    Attributes:
        path: of the file.
        vocabulary: tokens of the vocabulary.
        chunks: int32 (chunks, context length).
        codes: uint16 (chunks, scored positions, values of a row).
    """

    path: Path
    vocabulary: int
    chunks: Tokens
    codes: npt.NDArray[np.uint16]


def open_base_file(path: str | os.PathLike[str]) -> BaseFile:
    """Map a base file. Raises UsageError where it is not one, or is truncated."""
    file = Path(path)
    try:
        data: npt.NDArray[Any] = np.memmap(file, np.uint8, "r")
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read: {error}.", "check the path") from None
    if len(data) < 20 or bytes(data[:8]) != _MAGIC:
        raise UsageError(
            f"{file} does not hold log-probabilities.",
            "llama-perplexity --kl-divergence-base or apex eval --write-base writes such a file",
        )
    context, vocabulary, count = struct.unpack("<iii", bytes(data[8:20]))
    scored = context - 1 - context // 2
    row = _core.base_file_row(vocabulary) if vocabulary > 0 else 0
    tokens_end = 20 + 4 * count * context
    end = tokens_end + 2 * count * scored * row
    if context < 4 or vocabulary < 1 or count < 1 or len(data) < end:
        raise UsageError(f"{file} is truncated or damaged.", "write it again")
    chunks = np.frombuffer(data[20:tokens_end].tobytes(), "<i4").reshape(count, context)
    if chunks.min() < 0 or chunks.max() >= vocabulary:
        raise UsageError(f"{file} is damaged: it holds tokens out of range.", "write it again")
    codes = data[tokens_end:end].view("<u2").reshape(count, scored, row)
    return BaseFile(file, vocabulary, chunks.astype(np.int32), codes)


class BaseFileWriter:
    """Writes a base file, whole or not at all; a context manager."""

    def __init__(self, path: Path, vocabulary: int, chunks: Tokens) -> None:
        self._output = OutputSet([path])
        self._start = _MAGIC + struct.pack("<iii", chunks.shape[1], vocabulary, len(chunks))
        self._tokens = np.ascontiguousarray(chunks, "<i4")

    def __enter__(self) -> BaseFileWriter:
        with ExitStack() as undo:  # a disk that is full already leaves nothing
            undo.enter_context(self._output)
            self._file.write(self._start + self._tokens.tobytes())
            undo.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._output.__exit__(*error)

    @property
    def _file(self) -> OutputFile:
        return self._output.files[0]

    def write(self, codes: npt.NDArray[np.uint16]) -> None:
        """Append rows."""
        self._file.write(np.ascontiguousarray(codes, "<u2").tobytes())

    def commit(self) -> None:
        """Give the file its name."""
        self._output.commit()
