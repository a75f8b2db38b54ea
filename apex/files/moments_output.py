"""Writes second-moment files: every tensor at its place, in parts, for as long as it takes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.errors import ImatrixError
from apex.files.checks import check_output
from apex.files.moments import (
    KEYS,
    KIND,
    ROWS,
    SUMS,
    UNFINISHED,
    VERSION,
    SecondMoments,
    load_second_moments,
    triangle,
)
from apex.files.output import PARTIAL_SUFFIX, OutputSet

__all__ = ["MomentsContent", "MomentsWriter", "merge_second_moments", "missing_bytes"]


@dataclass(frozen=True)
class MomentsContent:
    """What a second-moment file holds, without the sums and the counts.

    Attributes:
        model_digest: of the model, see ``calibration.identity``.
        datasets, chunk_count, chunk_size: of the calibration texts.
        sizes: by tensor name, columns and matrices.
        aliases: by name of a tensor without sums of its own, the one with the same inputs.
        of_weights: the tensors whose sums are over rows of weights, whatever the texts.
        run: what identifies the run that makes the file, which may go on with it.
    """

    model_digest: str
    datasets: Sequence[str]
    chunk_count: int
    chunk_size: int
    sizes: Mapping[str, tuple[int, int]]
    aliases: Mapping[str, str]
    of_weights: Sequence[str] = ()
    run: str = ""

    def header(self) -> _core.Header:
        """The header of the file."""
        header = _core.Header.empty()
        header.set("general.type", "str", KIND)
        header.set(KEYS["version"], "u32", VERSION)
        header.set(KEYS["model"], "str", self.model_digest)
        header.set(KEYS["run"], "str", self.run)
        same = [name for pair in self.aliases.items() for name in pair]
        header.set(KEYS["same"], "arr[str]", same)
        header.set(KEYS["weights"], "arr[str]", list(self.of_weights))
        header.set("imatrix.datasets", "arr[str]", list(self.datasets))
        header.set("imatrix.chunk_count", "u32", self.chunk_count)
        header.set("imatrix.chunk_size", "u32", self.chunk_size)
        for name, (columns, matrices) in self.sizes.items():
            header.add_tensor(name + SUMS, [triangle(columns), matrices], "F32")
            header.add_tensor(name + ROWS, [matrices], "I64")
        return header

    @property
    def bytes(self) -> int:
        """How large the file is."""
        header = self.header()
        data = max((info.offset + info.bytes for info in header.tensors()), default=0)
        return len(header.to_bytes()) + data + -data % header.alignment


class MomentsWriter:
    """A second-moment file in the making; a context manager.

    What was finished stays in the partial file until ``commit``, and a writer of the same content
    goes on from there.

    Attributes:
        finished: the tensors whose sums are in the file.
    """

    def __init__(self, path: Path, content: MomentsContent) -> None:
        self.finished: set[str] = set()
        header = content.header()
        self._header = header.to_bytes()
        self._places = {i.name: len(self._header) + i.offset for i in header.tensors()}
        self._sizes = content.sizes
        self._end = content.bytes
        self._output = OutputSet([path], keeps=True)

    def __enter__(self) -> MomentsWriter:
        """Open the partial file, and see what is in it. Raises OutputError."""
        self._output.__enter__()
        with self._output.files[0].partial.open("rb") as file:
            is_ours = file.read(len(self._header)) == self._header
            for name, (_, matrices) in self._sizes.items() if is_ours else ():
                file.seek(self._places[name + ROWS])
                rows = np.frombuffer(file.read(8 * matrices), "<i8")
                if len(rows) == matrices and (rows >= 0).all():
                    self.finished.add(name)
        if not is_ours:
            self._begin()
        return self

    def _begin(self) -> None:
        """The header comes last: without it, nobody takes zeros for counts."""
        file = self._output.files[0]
        file.extend(0)
        file.extend(self._end)
        for name, (_, matrices) in self._sizes.items():
            self._write_rows(name, np.full(matrices, UNFINISHED))
        file.sync()
        file.write_at(0, self._header)
        file.sync()

    def write(self, name: str, first: int, sums: npt.NDArray[np.float32]) -> None:
        """Write the sums of some matrices, float32 (matrices, triangle), from ``first`` on."""
        columns, _ = self._sizes[name]
        place = self._places[name + SUMS] + 4 * triangle(columns) * first
        data = np.ascontiguousarray(sums, "<f4")
        self._output.files[0].write_at(place, data.reshape(-1).data)

    def finish(self, rows: Mapping[str, npt.NDArray[np.int64]]) -> None:
        """Say of tensors that all their sums were written, with the counts of their rows."""
        self._output.files[0].sync()
        for name, counts in rows.items():
            self._write_rows(name, counts)
        self._output.files[0].sync()
        self.finished.update(rows)

    def _write_rows(self, name: str, rows: npt.NDArray[np.int64]) -> None:
        data = np.ascontiguousarray(rows, "<i8").tobytes()
        self._output.files[0].write_at(self._places[name + ROWS], data)

    def commit(self) -> None:
        """Give the file its name. Raises OutputError."""
        self._output.commit()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the partial file, and leave it where it is if anything in it is finished."""
        self._output.keeps = bool(self.finished)
        self._output.__exit__(kind, error, traceback)


def merge_second_moments(
    paths: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> Path:
    """Write the sum of second-moment files of one model; returns the path of the output.

    One matrix after the other is read, added in float64 in the order of the files, and written.
    Raises ImatrixError where the files do not go together, OutputError.
    """
    check_output([output], paths, overwrite=overwrite)
    files = [load_second_moments(path) for path in paths]
    sizes = _sizes(files[0])
    for other in files[1:]:
        _require_alike(files[0], other)
    content = MomentsContent(
        files[0].model_digest,
        [name for file in files for name in file.datasets],
        sum(file.chunk_count for file in files),
        files[0].chunk_size,
        sizes,
        files[0].aliases,
        files[0].of_weights,
        " ".join(file.digest for file in files),
    )
    path = Path(output)
    check_output([path], paths, overwrite=overwrite, size=missing_bytes(path, content))
    with MomentsWriter(path, content) as writer:
        for name, (_, matrices) in sizes.items():
            if name in writer.finished:
                continue
            parts_of = files[:1] if name in files[0].of_weights else files
            entries = [entry for file in parts_of if (entry := file.entry(name)) is not None]
            for matrix in range(matrices):
                parts = (entry.sums(matrix).astype(np.float64) for entry in entries)
                writer.write(name, matrix, np.asarray(sum(parts), np.float32))
            writer.finish({name: np.sum([entry.rows for entry in entries], axis=0)})
        writer.commit()
    return path


def missing_bytes(path: Path, content: MomentsContent) -> int:
    """What the disk must have free for a file, of which a part may be there already."""
    try:
        present = path.with_name(path.name + PARTIAL_SUFFIX).stat()
    except OSError:
        return content.bytes
    return max(content.bytes - getattr(present, "st_blocks", 0) * 512, 0)


def _sizes(file: SecondMoments) -> dict[str, tuple[int, int]]:
    entries = {name: file.entry(name) for name in file.own_names}
    return {name: (e.columns, e.matrices) for name, e in entries.items() if e is not None}


def _require_alike(first: SecondMoments, other: SecondMoments) -> None:
    if first.model_digest != other.model_digest:
        raise ImatrixError(
            f"{first.path} and {other.path} were made of different models.",
            "merge second moments of the same model",
        )
    if first.aliases != other.aliases or _sizes(first) != _sizes(other):
        raise ImatrixError(
            f"{first.path} and {other.path} hold different tensors.",
            "collect all parts with the same options",
        )
