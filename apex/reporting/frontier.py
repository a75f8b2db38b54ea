"""What is drawn of a frontier: the best predicted loss at every size of a model's file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apex.errors import UsageError

__all__ = ["check_frontier", "curve", "knees", "smallest_kl"]

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
