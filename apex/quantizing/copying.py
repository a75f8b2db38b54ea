"""Copies files that a plan leaves as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from apex.files import OutputSet
from apex.planning import Plan
from apex.quantizing.result import Timings

__all__ = ["copy_files"]

_COPY_BYTES = 8 << 20


def copy_files(plan: Plan, paths: Sequence[Path], timings: Timings) -> None:
    """Copy the files of a plan's source, byte for byte. Raises OutputError."""
    with OutputSet(paths) as output:
        for source, target in zip(plan.model.files, output.files, strict=True):
            with Path(source).open("rb") as file:
                while block := file.read(_COPY_BYTES):
                    target.write(block)
        with timings.measure("syncing"):
            output.commit()
