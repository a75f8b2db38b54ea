"""The names of a plan's outputs, and whether they can be written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from apex.files import check_output
from apex.planning import Plan
from apex.sources import shard_path

__all__ = ["check_plan_outputs", "output_paths"]


def output_paths(plan: Plan, output: Path) -> tuple[Path, ...]:
    """The names of the files that a plan writes; shards get ``-00001-of-000NN``."""
    count = len(plan.files)
    if count == 1:
        return (output,)
    return tuple(shard_path(output, index, count) for index in range(count))


def check_plan_outputs(
    plans: Sequence[Plan], outputs: Sequence[Path], *, overwrite: bool
) -> list[tuple[Path, ...]]:
    """Raise OutputError unless the plans' files can all be written: free, elsewhere, with space.

    Returns the names of each plan's files.
    """
    paths = [output_paths(plan, output) for plan, output in zip(plans, outputs, strict=True)]
    check_output(
        [path for names in paths for path in names],
        {name for plan in plans for name in plan.inputs},
        overwrite=overwrite,
        size=sum(plan.file_bytes for plan in plans),
    )
    return paths
