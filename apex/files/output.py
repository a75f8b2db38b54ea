"""Output that appears whole or not at all: a temporary name, synced, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
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
    """One file in the making, under ``NAME.partial``.

    The partial file is locked while this process lives. One that is left over from a process that
    was killed is not locked, and is taken over: emptied, unless it ``keeps`` what is there.
    """

    def __init__(self, path: Path, *, keeps: bool = False) -> None:
        self.path = path
        self.partial = path.with_name(path.name + PARTIAL_SUFFIX)
        self.bytes = 0
        self._unsynced = 0
        self._lock = threading.Lock()
        self._file: BinaryIO | None = _open_locked(self.partial)
        if not keeps:
            self.extend(0)

    def write(self, data: bytes | memoryview) -> None:
        """Write all of ``data`` after what was written so."""
        self.write_at(self.bytes, data)
        self.bytes += len(data)

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of ``data`` at its place; from any thread."""
        view = memoryview(data).cast("B")
        size = len(view)
        while view:
            written = self._write_some(view, offset)
            view = view[written:]
            offset += written
        with self._lock:
            self._unsynced += size
            is_time_to_sync = self._unsynced >= _SYNC_BYTES
            if is_time_to_sync:
                self._unsynced = 0
        if is_time_to_sync:
            self.sync()

    def pad(self, alignment: int) -> None:
        """Write zeros up to a multiple of ``alignment``, after what was written by ``write``."""
        self.write(b"\0" * (-self.bytes % alignment))

    def _write_some(self, view: memoryview, offset: int) -> int:
        assert self._file is not None
        if hasattr(os, "pwrite"):
            return os.pwrite(self._file.fileno(), view, offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.write(view)

    def extend(self, size: int) -> None:
        """Make the file so long; what is not written is zeros."""
        assert self._file is not None
        self._file.truncate(size)

    def sync(self) -> None:
        """Wait until everything written so far is on the disk."""
        assert self._file is not None
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Give up the lock; the partial file stays where it is."""
        if self._file is not None:
            self._file.close()
            self._file = None


class OutputSet:
    """The files of one output. They get their names together, at the end, or are all removed.

    ``open``, then ``commit`` or ``abandon``; or as a context manager, which abandons what was not
    committed and turns OSError from writing into OutputError.

    keeps: partial files are opened as they are, and stay when they are abandoned, to go on from;
        it can be changed in between.
    """

    def __init__(self, paths: Sequence[Path], *, keeps: bool = False) -> None:
        self.paths = tuple(paths)
        self.keeps = keeps
        self.files: list[OutputFile] = []

    def __enter__(self) -> OutputSet:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abandon()
        if isinstance(error, OSError):
            raise output_error(error, self.paths[0], keeps=self.keeps) from None

    def open(self) -> None:
        """Make the partial files. Raises OutputError."""
        try:
            for path in self.paths:
                path.parent.mkdir(parents=True, exist_ok=True)
                self.files.append(OutputFile(path, keeps=self.keeps))
        except BaseException as error:
            self.abandon()
            if isinstance(error, OSError):
                raise output_error(error, self.paths[0]) from None
            raise

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

    def abandon(self) -> None:
        """Remove what was not committed, or close it where it is kept."""
        for file in self.files:
            if not self.keeps:
                with contextlib.suppress(OSError):
                    file.partial.unlink()
            file.close()
        self.files.clear()


def output_error(error: OSError, path: Path, *, keeps: bool = False) -> OutputError:
    """The OutputError that says what ``error`` means for writing ``path``.

    keeps: whether a part of it is kept to go on from.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"The disk became full while writing {path}; "
            + ("what was finished is kept." if keeps else "nothing was left there."),
            "free some space or write elsewhere",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"{path} cannot be written: {error.strerror}.", "write elsewhere")
    if error.errno == errno.ENAMETOOLONG:
        return OutputError(
            f"The name {path.name} is too long for the file system.", "choose a shorter name"
        )
    return OutputError(
        f"Writing {path} failed: {error.strerror or error}.", "check the disk and the path"
    )


def _open_locked(partial: Path) -> BinaryIO:
    # Not for appending: then every write would go to the end, whatever its offset.
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    file = os.fdopen(descriptor, "r+b", buffering=0)
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
    return file


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
