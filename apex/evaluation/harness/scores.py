"""What the harness found, number by number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["HarnessScore", "scores_of"]


@dataclass(frozen=True)
class HarnessScore:
    """One number that the harness gives for a task.

    Attributes:
        task: its name, or that of a group.
        metric, filter: as the harness calls them, such as exact_match and strict-match.
        value, error: as the harness gives them; the standard error is None where it has none.
        samples: over how many documents.
        shots: how many solved examples stood before each question; None where it differs.
        version: of the task.
        higher_is_better: None where the task does not say.
        part_of: the group whose number this one is in; None for what was asked for.
    """

    task: str
    metric: str
    filter: str
    value: float
    error: float | None
    samples: int
    shots: int | None
    version: str
    higher_is_better: bool | None
    part_of: str | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def scores_of(results: Mapping[str, Any]) -> Iterator[HarnessScore]:
    """Of what lm_eval.simple_evaluate gives."""
    groups = results.get("groups", {})
    parents = {
        child: parent
        for parent, children in results["group_subtasks"].items()
        if parent in groups
        for child in children
    }
    for name, numbers in results["results"].items():
        for key, value in numbers.items():
            metric, comma, kind = key.partition(",")
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not comma or not is_number or metric.endswith("_stderr"):
                continue
            error = numbers.get(f"{metric}_stderr,{kind}")
            shots = results["n-shot"].get(name)
            yield HarnessScore(
                task=name,
                metric=metric,
                filter=kind,
                value=float(value),
                error=float(error) if isinstance(error, (int, float)) else None,
                samples=int(numbers.get("sample_len") or 0),
                shots=shots if isinstance(shots, int) else None,
                version=str(results["versions"].get(name) or ""),
                higher_is_better=(results["higher_is_better"].get(name) or {}).get(metric),
                part_of=parents.get(name),
            )
