"""Is an importance matrix good enough to quantize with? In words, with what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from apex.calibration.coverage import Coverage
from apex.files import ImportanceMatrix

__all__ = ["Grade", "Verdict", "judge"]

# Rules of thumb. The tiers' published files were made with about 50 thousand tokens; the built-in
# texts have 60 to 70 thousand.
_ENOUGH_TOKENS = 40_000
_FEW_TOKENS = 10_000
_ENOUGH_COVERED = 0.99
_FEW_COVERED = 0.90
_NAMED = 3


class Grade(str, Enum):
    """How good; the value is the wording for people."""

    GOOD = "good enough"
    USABLE = "usable, but not complete"
    POOR = "not good enough"


@dataclass(frozen=True)
class Verdict:
    """What is to be said of an importance matrix.

    Attributes:
        grade: how good it is.
        reasons: sentences, the most important first.
        advice: what would make it better; empty where nothing is missing.
        tokens: of text that it was made from, 0 if unknown.
        missing: the model's tensors that have no entry; empty if no model was given.
    """

    grade: Grade
    reasons: tuple[str, ...]
    advice: str
    tokens: int
    missing: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"grade": self.grade.value}


def judge(
    matrix: ImportanceMatrix, coverage: Coverage | None, missing: Sequence[str] | None = None
) -> Verdict:
    """Judge by the tokens of text, by the experts that they reached, and by missing entries.

    coverage: from ``coverage_of``; None for a model without routed experts. missing: the tensors
    of a model that the matrix has no entry for, or None if no model was given.
    """
    tokens = matrix.chunk_count * matrix.chunk_size
    found = [*_of_entries(missing), *_of_experts(coverage), _of_tokens(matrix, tokens)]
    order = list(Grade)
    grade = max((grade for grade, _ in found), key=order.index)
    worst_first = sorted(found, key=lambda reason: -order.index(reason[0]))
    return Verdict(
        grade,
        tuple(text for _, text in worst_first),
        _advice(grade, missing),
        tokens,
        tuple(missing or ()),
    )


_Reason = tuple[Grade, str]


def _of_entries(missing: Sequence[str] | None) -> list[_Reason]:
    if missing is None:
        return []
    if not missing:
        return [(Grade.GOOD, "every tensor of the model that can use an entry has one")]
    names = ", ".join(missing[:_NAMED])
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    count = len(missing)
    what = "1 tensor of the model has" if count == 1 else f"{count} tensors of the model have"
    return [(Grade.POOR, f"{what} no entry: {names}{more}")]


def _of_experts(coverage: Coverage | None) -> list[_Reason]:
    if coverage is None:
        return []
    grade = Grade.GOOD
    if coverage.share < _ENOUGH_COVERED or coverage.reached < coverage.experts:
        grade = Grade.USABLE
    if coverage.share < _FEW_COVERED:
        grade = Grade.POOR
    return [(grade, coverage.sentence)]


def _of_tokens(matrix: ImportanceMatrix, tokens: int) -> _Reason:
    if not tokens:
        return Grade.USABLE, "the file does not say how many tokens it was made from"
    grade = Grade.GOOD
    if tokens < _ENOUGH_TOKENS:
        grade = Grade.USABLE if tokens >= _FEW_TOKENS else Grade.POOR
    than = "" if grade is Grade.GOOD else f"; {_ENOUGH_TOKENS:,} or more are usual"
    return grade, f"it was made from {tokens:,} tokens of text{than}"


def _advice(grade: Grade, missing: Sequence[str] | None) -> str:
    if missing:
        return "make one from this very model: apex imatrix MODEL"
    if grade is Grade.GOOD:
        return ""
    return (
        "use more text, or text of more kinds: apex imatrix MODEL --until-coverage 0.99 with the "
        "built-in texts, -f FILE with your own, apex imatrix merge to add up two matrices"
    )
