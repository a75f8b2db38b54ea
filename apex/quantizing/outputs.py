"""The names of a plan's outputs, and whether they can be written."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from apex.files import check_output
from apex.planning import Plan
from apex.sources import shard_path

__all__ = ["check_plan_outputs", "is_done", "model_stem", "output_name", "output_paths"]

# The encoding of the source at the end of its name, and the number of a shard.
_ENCODING = re.compile(r"([-.](f32|f16|bf16|q8_0))?(-\d{5}-of-\d{5})?$", re.IGNORECASE)


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


def model_stem(name: str) -> str:
    """The name of a model's file without its encoding: MODEL of MODEL-F16.gguf."""
    return _ENCODING.sub("", name.removesuffix(".gguf"))


def output_name(plan: Plan, model: str | None = None) -> str:
    """How a plan's file is called beside others: MODEL-APEX-I-Quality.gguf, MODEL-Q4_K_M.gguf.

    model: what stands for MODEL; None for the name of the plan's model.

    The encoding comes last, as GGUF's naming convention has it, in place of that of the source;
    tiers are called as the published APEX files are.
    """
    stem = model_stem(plan.model.name) if model is None else model
    if plan.tier is None:
        return f"{stem}-{plan.file_type}.gguf"
    words = "-".join(word[:1].upper() + word[1:] for word in plan.tier.split("-"))
    return f"{stem}-APEX-{words}.gguf"


def is_done(plan: Plan, output: Path) -> bool:
    """Whether the plan's files are there already.

    They are of the planned sizes, with the planned headers, and not older than what they are made
    from. Files get their names only when they are whole, so such files were finished.
    """
    for file, path in zip(plan.files, output_paths(plan, output), strict=True):
        try:
            state = path.stat()
            newest = max((Path(name).stat().st_mtime_ns for name in plan.inputs), default=0)
            if state.st_size != file.bytes or state.st_mtime_ns < newest:
                return False
            with path.open("rb") as opened:
                header = opened.read(file.header_bytes)
        except OSError:
            return False
        if hashlib.sha256(header).hexdigest() != file.header_digest:
            return False
    return True
