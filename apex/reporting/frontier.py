"""What is drawn of a frontier: the best predicted loss at every size of a model's file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apex.errors import UsageError
from apex.reporting.results import Results

__all__ = ["check_frontier", "curve", "knees", "smallest_kl", "split_frontiers", "with_measured"]

_FORMAT, _VERSION = "apex-frontier", 1
_KEYS = ("model", "fixed_bytes", "types", "tensors", "start", "steps", "knees", "marks", "measured")
# A KL divergence below this share of the largest is drawn at the lower end of a logarithmic axis.
_SMALLEST_SHARE = 1e-5


def check_frontier(data: Mapping[str, Any]) -> None:
    """Raises UsageError where data is not a frontier of this version, or lacks part of it."""
    hint = "give what apex fit --curve wrote"
    if data.get("format") != _FORMAT:
        raise UsageError("The data is not a frontier of apex fit.", hint)
    if data.get("version") != _VERSION:
        raise UsageError(
            f"The frontier is of version {data.get('version')}; this apex reads {_VERSION}.", hint
        )
    missing = [key for key in _KEYS if key not in data]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise UsageError(f"The frontier is incomplete: {', '.join(missing)} {verb} missing.", hint)


def curve(data: Mapping[str, Any]) -> list[tuple[int, float]]:
    """(bytes, predicted KL) of every file on the frontier, the smallest first."""
    start = data["start"]
    steps = ((step[2], step[3]) for step in data["steps"])
    return [(start["bytes"], start["kl"]), *steps]


def knees(data: Mapping[str, Any]) -> list[tuple[int, float]]:
    """(bytes, predicted KL) after the steps at which the frontier bends."""
    return [(data["steps"][step][2], data["steps"][step][3]) for step in data["knees"]]


def smallest_kl(data: Mapping[str, Any]) -> float:
    """Where a logarithmic axis ends: a frontier may come down to 0, at the model's own types."""
    values = [kl for _, kl in curve(data)] + [mark["kl"] for mark in data["marks"]]
    positive = [value for value in values if value > 0]
    return max(min(positive), _SMALLEST_SHARE * max(positive)) if positive else _SMALLEST_SHARE


def split_frontiers(
    paths: Sequence[str | os.PathLike[str]],
) -> tuple[list[str | os.PathLike[str]], Mapping[str, Any] | None]:
    """The files that hold no frontier, and the frontier of the one that does, or None.

    Raises UsageError for several, and for one that is damaged.
    """
    others: list[str | os.PathLike[str]] = []
    found: Mapping[str, Any] | None = None
    for path in paths:
        data = _frontier(path)
        if data is None:
            others.append(path)
            continue
        if found is not None:
            raise UsageError(
                f"{os.fspath(path)} is a second frontier.", "give the frontier of one model"
            )
        check_frontier(data)
        found = data
    return others, found


def _frontier(path: str | os.PathLike[str]) -> Mapping[str, Any] | None:
    """What a file holds, if that is a frontier; whoever reads the others says what is wrong."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) and data.get("format") == _FORMAT else None


def with_measured(data: Mapping[str, Any], results: Results) -> dict[str, Any]:
    """A frontier with what was measured of files: of each the first text that it ran over."""
    measured: dict[str, dict[str, Any]] = {}
    for result in results.texts:
        model, divergence = result.model, result.divergence
        if divergence is None or model.is_reference or not math.isfinite(divergence.kl.value):
            continue
        entry = {"name": model.label, "bytes": model.bytes, "kl": divergence.kl.value}
        measured.setdefault(model.label, entry | {"error": divergence.kl.error})
    return {**data, "measured": [*data["measured"], *measured.values()]}
