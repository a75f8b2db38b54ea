"""What is checked of an output before anything is written, and of an input before it is opened."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from apex.errors import OutputError
from apex.files.output import PARTIAL_SUFFIX, output_error

__all__ = ["check_output"]


def check_output(
    outputs: Sequence[str | os.PathLike[str]],
    inputs: Iterable[str | os.PathLike[str]] = (),
    *,
    overwrite: bool = False,
    size: int = 0,
) -> None:
    """Raise OutputError unless these files can be written without harm.

    outputs: every file that the command writes; they must all be different.
    inputs: every file that the command reads: all shards of a model, texts, importance matrices, …
        No output may be one of them under any name, whatever ``overwrite`` says.
    overwrite: whether files that exist may be replaced.
    size: bytes that the outputs take together; 0 leaves the free space unchecked.

    Nothing is opened or made, so this can be asked long before the first byte is written.
    """
    paths = [Path(path) for path in outputs]
    read = [Path(path) for path in inputs]
    for index, path in enumerate(paths):
        if str(path) == "-":
            raise OutputError(
                "apex does not write to the standard output.", "give the name of a file"
            )
        state = _state(path)
        partial = path.with_name(path.name + PARTIAL_SUFFIX) if path.name else path
        _state(partial)  # the longer name must be possible too
        for source in read:
            if _is_same(path, source):
                under = "" if path == source else f", {source}, under another name"
                raise OutputError(
                    f"The output {path} is the input itself{under}.", "choose another name"
                )
            if _is_same(partial, source):
                raise OutputError(
                    f"The output {path} is first written as {partial}, which is an input.",
                    "choose another name",
                )
        if any(_is_same(path, other) for other in paths[:index]):
            raise OutputError(f"{path} is the name of two outputs.", "choose two names")
        if state is not None:
            _check_existing(path, state, overwrite)
    for folder in dict.fromkeys(_folder(path) for path in paths):
        _check_folder(folder)
    if size and paths:
        _check_space(_folder(paths[0]), size)


def _state(path: Path) -> os.stat_result | None:
    """What is there under a name, links followed; None where nothing is."""
    try:
        return path.stat()
    except OSError as error:
        # A link without a target or in a circle is replaced; a parent that is a file comes later.
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise output_error(error, path) from None


def _is_same(path: Path, other: Path) -> bool:
    """Whether two names mean one file, through links too, and also where there is none yet."""
    try:
        return path.samefile(other)
    except OSError:
        return os.path.realpath(path) == os.path.realpath(other)


def _check_existing(path: Path, state: os.stat_result, overwrite: bool) -> None:
    if stat.S_ISDIR(state.st_mode):
        raise OutputError(f"{path} is a folder.", "give the name of a file")
    if not stat.S_ISREG(state.st_mode):
        raise OutputError(f"{path} is not a regular file.", "give the name of a file")
    if not overwrite:
        raise OutputError(f"{path} exists already.", "choose another name, or use --overwrite")


def _folder(path: Path) -> Path:
    """The nearest folder above a file that exists already; the others will be made."""
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise OutputError(f"{folder} is not a folder.", "choose another output")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"The folder {folder} is read-only.", "write elsewhere")


def _check_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OutputError(
            f"The disk of {folder} has {free / 2**30:.2f} GiB free, the output needs "
            f"{size / 2**30:.2f} GiB.",
            "free some space or write elsewhere",
        )
