"""Output that appears whole or not at all: a temporary name, synced, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from apex.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be replaced anyway
    fcntl = None  # type: ignore[assignment]

__all__ = ["OutputFile", "OutputSet"]

PARTIAL_SUFFIX = ".partial"

# Syncing in steps while other work goes on leaves little for the end.
_SYNC_BYTES = 128 << 20


class OutputFile:
    """One file in the making, written from start to end under ``NAME.partial``.

    The partial file is locked while this process lives. One that is left over from a process that
    was killed is not locked, and is taken over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = path.with_name(path.name + PARTIAL_SUFFIX)
        self.bytes = 0
        self._unsynced = 0
        self._file: BinaryIO | None = _open_locked(self.partial)

    def write(self, data: bytes | memoryview) -> None:
        """Append all of ``data``."""
        assert self._file is not None
        view = memoryview(data).cast("B")
        while view:
            written = self._file.write(view)
            view = view[written:]
            self.bytes += written
            self._unsynced += written
        if self._unsynced >= _SYNC_BYTES:
            self.sync()

    def pad(self, alignment: int) -> None:
        """Append zeros up to a multiple of ``alignment``."""
        self.write(b"\0" * (-self.bytes % alignment))

    def sync(self) -> None:
        """Wait until everything written so far is on the disk."""
        assert self._file is not None
        os.fsync(self._file.fileno())
        self._unsynced = 0

    def close(self) -> None:
        """Give up the lock; the partial file stays where it is."""
        if self._file is not None:
            self._file.close()
            self._file = None


class OutputSet:
    """The files of one output. They get their names together, at the end, or are all removed.

    Use as a context manager: leaving it without ``commit`` removes what was written.
    OSError from writing is turned into OutputError.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self.files: list[OutputFile] = []

    def __enter__(self) -> OutputSet:
        try:
            for path in self.paths:
                path.parent.mkdir(parents=True, exist_ok=True)
                self.files.append(OutputFile(path))
        except BaseException as error:
            self._discard()
            if isinstance(error, OSError):
                raise output_error(error, self.paths[0]) from None
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._discard()
        if isinstance(error, OSError):
            raise output_error(error, self.paths[0]) from None

    def commit(self) -> None:
        """Sync all files and rename them.

        The first comes last: without the first shard, nobody takes the others for a model.
        """
        for file in self.files:
            file.sync()
        while self.files:
            file = self.files[-1]
            file.partial.replace(file.path)
            file.close()
            self.files.pop()
        for folder in {path.parent for path in self.paths}:
            _sync_folder(folder)

    def _discard(self) -> None:
        for file in self.files:
            with contextlib.suppress(OSError):
                file.partial.unlink()
            file.close()
        self.files.clear()


def output_error(error: OSError, path: Path) -> OutputError:
    """The OutputError that says what ``error`` means for writing ``path``."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"The disk became full while writing {path}; nothing was left there.",
            "free some space or write elsewhere",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"{path} cannot be written: {error.strerror}.", "write elsewhere")
    return OutputError(
        f"Writing {path} failed: {error.strerror or error}.", "check the disk and the path"
    )


def _open_locked(partial: Path) -> BinaryIO:
    file = partial.open("ab", buffering=0)
    try:
        if fcntl is not None:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held the lock may have given the file its final name between our two calls.
        is_ours = os.path.samestat(os.fstat(file.fileno()), partial.stat())
    except OSError as error:
        file.close()
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.ENOENT):
            is_ours = False
        else:
            raise
    if not is_ours:
        file.close()
        raise OutputError(f"Another process is writing {partial}.", "wait for it, or stop it")
    file.truncate(0)
    return file


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
