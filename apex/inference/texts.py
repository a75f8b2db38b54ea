"""Texts as llama.cpp's tools read them."""

from __future__ import annotations

import os
from pathlib import Path

from apex.errors import UsageError

__all__ = ["read_bytes", "read_text", "require_utf8"]


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """All of a file. Raises UsageError."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(
            f"{os.fspath(path)} cannot be read: {error.strerror}.", "check the path"
        ) from None


def read_text(path: str | os.PathLike[str]) -> bytes:
    """The UTF-8 text of a file, without one line break at its end. Raises UsageError."""
    data = read_bytes(path)
    if not data.strip():
        raise UsageError(f"{os.fspath(path)} is empty.", "give a file with text")
    require_utf8(data, os.fspath(path))
    return data.removesuffix(b"\n")


def require_utf8(data: bytes, name: str, offset: int = 0) -> None:
    """Raise UsageError where a text is not UTF-8, with the place of the first wrong byte.

    A character that is cut off at the end is let through, as by llama.cpp's tools. offset: where
    the text begins in its file.
    """
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            return
        place = offset + error.start
        raise UsageError(
            f"{name} is not UTF-8 text: the byte at offset {place} is {data[error.start]:#04x}.",
            "convert it with iconv, or leave out what is not text",
        ) from None
