"""``ImportanceAccumulator``: an importance matrix in the making, added to, merged and written."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.errors import DataError, ImatrixError, UsageError
from apex.files import ImportanceEntry, ImportanceMatrix, load_imatrix, write_imatrix

__all__ = ["ImportanceAccumulator"]


class ImportanceAccumulator:
    """An importance matrix in the making: sums of squared activations per column and expert.

    Sums are float32, taken in the order in which rows come, as llama-imatrix takes them.

    Attributes:
        chunk_size: tokens of a chunk; a file says how many chunks were run.
        datasets: names of the texts, as written into the file.
    """

    def __init__(
        self, *, chunk_size: int = 512, threads: int = 0, without: Collection[str] = ()
    ) -> None:
        """threads: 0 for all. without: names of tensors that are passed over."""
        self.chunk_size = chunk_size
        self.datasets: list[str] = []
        self.accumulator = _core.Accumulator(threads, set(without))

    def add(
        self,
        name: str,
        activations: npt.ArrayLike,
        experts: npt.ArrayLike | None = None,
        expert_count: int = 0,
    ) -> None:
        """Add what went into a matrix: float32 (rows, columns) activations.

        name: the tensor's, as in ``blk.0.ffn_down_exps.weight``.
        experts: for routed experts, which of ``expert_count`` experts saw each row.
        Raises UsageError where sizes differ from before, DataError where a value is not finite.
        """
        rows = np.asarray(activations, np.float32)
        which = None if experts is None else np.asarray(experts, np.int64)
        try:
            self.accumulator.add(name, rows, which, expert_count)
        except ValueError as error:
            raise UsageError(f"{name}: {error}.") from None
        except _core.NonFiniteError as error:
            raise DataError(f"{error}.") from None

    def merge(self, other: ImportanceMatrix | str | os.PathLike[str]) -> None:
        """Add another importance matrix, a file or one that is loaded. Raises ImatrixError.

        A .dat file holds means; they count as sums over its chunks, as in llama-imatrix.
        """
        matrix = other if isinstance(other, ImportanceMatrix) else load_imatrix(other)
        factor = np.float32(self.chunk_size if matrix.is_legacy else 1)
        for name, entry in matrix.entries.items():
            if not entry.is_sound():
                raise ImatrixError(
                    f"{matrix.path}: {name} holds values that are negative or not finite.",
                    "write that importance matrix again",
                )
            counts = np.rint(entry.counts * factor).astype(np.int64)
            try:
                self.accumulator.merge(name, entry.sums * factor, counts)
            except ValueError as error:
                raise ImatrixError(
                    f"{matrix.path} does not go with the others: {error}.",
                    "merge importance matrices of the same model",
                ) from None
        self.datasets.extend(matrix.datasets)

    @property
    def entries(self) -> Mapping[str, ImportanceEntry]:
        """What was collected so far, by tensor name; copies."""
        return {
            name: ImportanceEntry(sums.reshape(len(counts), -1), counts.astype(np.float32))
            for name, (sums, counts) in self.accumulator.entries().items()
        }

    @property
    def chunk_count(self) -> int:
        """Chunks that were run, from the largest count, as llama-imatrix counts them."""
        counts = self.accumulator.counts().values()
        return max((int(count.max()) for count in counts), default=0) // self.chunk_size

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        legacy: bool = False,
        overwrite: bool = False,
        notes: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write a file that llama-imatrix and llama-quantize read, whole or not at all.

        legacy: the older .dat form, which knows no experts.
        notes: further metadata keys, str or int, for the GGUF form.
        Raises OutputError, ImatrixError where nothing was collected.
        """
        if not self.accumulator.counts():
            raise ImatrixError("Nothing was collected, so there is nothing to write.")
        return write_imatrix(
            Path(path),
            self.entries,
            datasets=self.datasets,
            chunk_count=self.chunk_count,
            chunk_size=self.chunk_size,
            legacy=legacy,
            overwrite=overwrite,
            notes=notes or {},
        )

    @classmethod
    def load(
        cls, paths: Sequence[str | os.PathLike[str]], *, chunk_size: int = 512, threads: int = 0
    ) -> ImportanceAccumulator:
        """The sum of some files. Raises ImatrixError."""
        result = cls(chunk_size=chunk_size, threads=threads)
        for path in paths:
            result.merge(path)
        return result
