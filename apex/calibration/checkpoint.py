"""What a calibration that was stopped leaves beside its output, to go on from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from apex.calibration.matrix import ImportanceAccumulator
from apex.errors import ImatrixError
from apex.files import ImportanceEntry, load_imatrix, write_imatrix

__all__ = ["Checkpoint", "checkpoint_path"]

_STATE = "apex.calibration.state"
_DONE = "apex.calibration.chunks_done"
_SUFFIX = ".checkpoint"


def checkpoint_path(output: Path) -> Path:
    """Where the checkpoint of an importance matrix is: ``NAME.checkpoint`` beside it."""
    return output.with_name(output.name + _SUFFIX)


class Checkpoint:
    """An importance matrix in the making, in a file beside the output.

    The accumulator is in the middle of a group of chunks most of the time, so what it held after
    the last whole group is kept as a copy, for an interrupt to save.

    Attributes:
        path: of the file.
        saved: how many chunks are in the file.
    """

    def __init__(self, output: Path, state: str, chunk_size: int) -> None:
        self.path = checkpoint_path(output)
        self.saved = 0
        self._state = state
        self._chunk_size = chunk_size
        self._kept: tuple[int, Mapping[str, ImportanceEntry]] = (0, {})

    def resume(self, matrix: ImportanceAccumulator) -> bool:
        """Add what the file holds to ``matrix``; False where it was left by another run."""
        try:
            found = load_imatrix(self.path)
        except ImatrixError:
            return False
        done = found.notes.get(_DONE)
        if found.notes.get(_STATE) != self._state or not isinstance(done, int):
            return False
        matrix.merge(found)
        self.saved = done
        return True

    def keep(self, done: int, matrix: ImportanceAccumulator) -> None:
        """Remember what there is after ``done`` chunks."""
        self._kept = (done, matrix.entries)

    def save(self, datasets: Sequence[str]) -> bool:
        """Write what was kept, unless the file has it; returns whether it was written."""
        done, entries = self._kept
        if done <= self.saved:
            return False
        write_imatrix(
            self.path,
            entries,
            datasets=datasets,
            chunk_count=done,
            chunk_size=self._chunk_size,
            overwrite=True,
            notes={_STATE: self._state, _DONE: done},
        )
        self.saved = done
        return True

    def remove(self) -> None:
        """Remove the file, if there is one."""
        with suppress(FileNotFoundError):
            self.path.unlink()
