"""What an earlier run of a measurement left, from which the same one goes on."""

from __future__ import annotations

from pathlib import Path

from apex.errors import SensitivityError
from apex.sensitivity.binding import check_model
from apex.sensitivity.chunks import Chunks
from apex.sensitivity.data import Sensitivity
from apex.sensitivity.serial import load_sensitivity
from apex.sources import Source

__all__ = ["checkpoint_path", "probes_of", "unfinished"]


def checkpoint_path(output: Path) -> Path:
    """Where a run that writes ``output`` keeps what it has measured so far."""
    return output.with_name(output.name + ".checkpoint")


def probes_of(sensitivity: Sensitivity) -> int:
    """How many probes were made."""
    return sum(len(group.probes) for group in sensitivity.groups)


def unfinished(path: Path, mine: Sensitivity, chunks: Chunks, source: Source) -> Sensitivity | None:
    """What is in a file, if it is a part of a measurement that begins; else None.

    mine: the measurement, without its results. An earlier run of it may have had time for the first
    of the chunks only.
    """
    try:
        found = load_sensitivity(path)
        check_model(found, source)
    except SensitivityError:
        return None
    if found.is_complete or not 0 < found.text.chunks <= len(chunks.probing):
        return None
    text = chunks.identity(found.text.chunks)
    is_same = text == found.text and _how(mine) == _how(found)
    return found if is_same else None


def _how(measured: Sensitivity) -> tuple[object, ...]:
    """What must be alike for one run to go on where another stopped."""
    return (
        *(measured.imatrix, measured.rounding, measured.second_moments),
        *(measured.resident_type, measured.settings),
    )
