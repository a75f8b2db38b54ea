"""The one place that knows how rows become levels, by each way of rounding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from apex import _core

__all__ = ["round_rows"]


def round_rows(
    rows: npt.NDArray[np.uint8],
    source_type: str,
    shape: tuple[int, int, int],
    type_name: str,
    importance: npt.NDArray[np.float32] | None,
    rounding: str,
    out: npt.NDArray[np.uint8],
    threads: int,
    objective: Callable[[int], _core.Objective] | None = None,
) -> None:
    """Quantize the rows of a tensor, or some of them.

    rows: the bytes in the source. shape: (experts, rows, columns). importance: float32 (experts,
    columns), or None. rounding: one of ``ROUNDINGS``. out: uint8, room for the result.
    threads: 0 for all. objective: for compensated rounding, what gives that of one of the experts,
    by its number in the shape; where there is no importance, its diagonal takes that place.
    Raises _core.BadDataError.
    """
    if rounding != "compensated":
        objective = None
    if objective is not None and importance is None:
        importance = np.stack([objective(expert).diagonal for expert in range(shape[0])])
    _core.quantize(
        rows, type_name, importance, src_type=source_type, shape=shape, out=out, threads=threads
    )
    if rounding == "unshrunk" and importance is not None:
        _core.unshrink(
            rows, type_name, importance, out, src_type=source_type, shape=shape, threads=threads
        )
    if objective is not None:
        _, per_expert, columns = shape
        sources = rows.reshape(shape[0], -1)
        results = out.reshape(shape[0], -1)
        for expert in range(shape[0]):
            try:
                _core.compensate(
                    sources[expert],
                    type_name,
                    objective(expert),
                    results[expert],
                    src_type=source_type,
                    shape=(per_expert, columns),
                    threads=threads,
                )
            except _core.BadDataError as error:
                vars(error)["row"] = error.row + expert * per_expert
                raise
