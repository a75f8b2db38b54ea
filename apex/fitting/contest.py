"""The last comparison: the fitted file against tiers and file types, over chunks kept apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from apex.fitting.judging import Judge, Judged
from apex.fitting.result import Fit
from apex.fitting.rivals import Rival
from apex.planning import Plan

__all__ = ["Contest", "contest"]


@dataclass(frozen=True)
class Contest:
    """What was measured of a fitted file and of what could take its place.

    Attributes:
        fit: the fitted file.
        judged: what was measured of it.
        rivals: each with what was measured of it.
    """

    fit: Fit
    judged: Judged
    rivals: tuple[tuple[Rival, Judged], ...]

    @property
    def winner(self) -> Rival | None:
        """The rival with the least KL divergence, if that is less than the fitted file's."""
        better = [
            (judged.kl, number)
            for number, (_, judged) in enumerate(self.rivals)
            if judged.kl < self.judged.kl
        ]
        return self.rivals[min(better)[1]][0] if better else None

    @property
    def best(self) -> Plan:
        """What is to be written: the fitted plan, or the winner's under the same name."""
        winner = self.winner
        if winner is None:
            return self.fit.plan
        theirs = {rival.name: judged.kl for rival, judged in self.rivals}[winner.name]
        return self.fit.in_place(winner, "measured", theirs, self.judged.kl)

    def to_dict(self) -> dict[str, Any]:
        """As data for JSON."""
        found = [("fit", self.judged), *((rival.name, judged) for rival, judged in self.rivals)]
        return {
            name: {
                "kl": judged.kl,
                "error": judged.error,
                "p99.9": judged.high,
                "maximum": judged.most,
            }
            for name, judged in found
        }


def contest(
    fit: Fit, judge: Judge, progress: Callable[[int, int, str], None] | None = None
) -> Contest:
    """Measure a fitted file and its challengers. Raises RunError, DataError, ModelFileError.

    progress: called with how many are measured of how many, and what is measured next.
    """
    report = progress or (lambda _done, _all, _what: None)
    challengers = fit.challengers
    count = len(challengers) + 1
    report(0, count, "the fitted types")
    judged = judge.measure_plan(fit.plan)
    rivals = []
    for number, rival in enumerate(challengers):
        report(number + 1, count, rival.name)
        rivals.append((rival, judge.measure_plan(rival.plan)))
    return Contest(fit, judged, tuple(rivals))
