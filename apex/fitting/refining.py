"""Corrects a sensitivity at the operating point: where the fitted file is, not where probes were.

At a fitted file the effect of a single group is below the noise of what can be measured. That of a
whole kind is not: all tensors of a kind are taken one step up and one step down, and what that does
is compared with what was predicted.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from apex.allocation import Choice, Frontier, Item
from apex.fitting.judging import Judge, Judged, changed_types, difference
from apex.fitting.result import Fit
from apex.sensitivity import Sensitivity

__all__ = ["Refined", "Round", "refine", "scaled"]

# How far the true sensitivity of a kind is thought to be from the measured one, as a standard
# deviation of logarithms, and how far one round may take it.
_DOUBT = 0.4
_MOST = 2.0


@dataclass(frozen=True)
class Round:
    """One attempt to do better.

    Attributes:
        factors: by kind, what its sensitivity was multiplied by.
        before, after: on the chunks kept apart.
        is_kept: whether it did better.
    """

    factors: Mapping[str, float]
    before: Judged
    after: Judged
    is_kept: bool


@dataclass(frozen=True)
class Refined:
    """What refining came to.

    Attributes:
        fit: the best.
        sensitivity: with which it was made.
        judged: of it, on the chunks kept apart.
        rounds: all attempts.
    """

    fit: Fit
    sensitivity: Sensitivity
    judged: Judged
    rounds: tuple[Round, ...]


def refine(
    first: Fit,
    sensitivity: Sensitivity,
    again: Callable[[Sensitivity], Fit],
    fitting: Judge,
    apart: Judge,
    rounds: int,
    progress: Callable[[int, int, str], None] | None = None,
) -> Refined:
    """Improve a fit by measuring around it; what does not lower KL on ``apart`` is not kept.

    again: fits with another sensitivity, to the same wish.
    fitting: over the chunks by which kinds are corrected. apart: over those that decide.
    progress: called with how many measurements are made of how many, and what is measured.
    """
    best, judged, made = first, apart.measure_plan(first.plan), []
    report = progress or (lambda _done, _all, _what: None)
    for _ in range(rounds):
        factors = _factors(best, sensitivity, fitting, report)
        corrected = scaled(sensitivity, factors)
        fit = again(corrected)
        after = apart.measure_plan(fit.plan)
        is_kept = after.kl < judged.kl
        made.append(Round(factors, judged, after, is_kept))
        if not is_kept:
            break
        best, judged, sensitivity = fit, after, corrected
    return Refined(best, sensitivity, judged, tuple(made))


def scaled(sensitivity: Sensitivity, factors: Mapping[str, float]) -> Sensitivity:
    """A sensitivity in which each group of a kind costs a factor more."""
    groups = tuple(
        replace(
            group,
            probes=tuple(
                replace(
                    probe,
                    kl=probe.kl * factors.get(group.kind, 1.0),
                    error=probe.error * factors.get(group.kind, 1.0),
                )
                for probe in group.probes
            ),
        )
        for group in sensitivity.groups
    )
    return replace(sensitivity, groups=groups)


def _factors(
    fit: Fit, sensitivity: Sensitivity, judge: Judge, report: Callable[[int, int, str], None]
) -> dict[str, float]:
    kinds: dict[str, list[Item]] = defaultdict(list)
    for item in fit.choices.items:
        kinds[sensitivity.group_of[fit.choices.members[item.name][0]].kind].append(item)
    count = 2 * len(kinds) + 1
    report(0, count, "what was chosen")
    types = changed_types(fit.plan)
    now = judge.measure(types)
    factors = {}
    for number, (kind, items) in enumerate(kinds.items()):
        observed = []
        for direction in (1, -1):
            report(2 * number + 1 + (direction < 0), count, kind)
            moved, predicted = _moved(fit, items, direction)
            if moved:
                measured, error = difference(judge.measure({**types, **moved}), now)
                observed.append((predicted, measured, error))
        factors[kind] = _factor(observed)
    return factors


def _moved(fit: Fit, items: list[Item], direction: int) -> tuple[dict[str, str], float]:
    """The items' tensors one step larger or smaller, and how much loss is predicted for that."""
    types, predicted = {}, 0.0
    for item in items:
        now = fit.solution.choices[item.name]
        hull = _hull(item)
        larger = [choice for choice in hull if choice.bytes > now.bytes]
        smaller = [choice for choice in hull if choice.bytes < now.bytes]
        to = (larger[:1] if direction > 0 else smaller[-1:]) or [now]
        predicted += to[0].loss - now.loss
        if to[0] != now:
            types.update(dict.fromkeys(fit.choices.members[item.name], to[0].type))
    return types, predicted


def _hull(item: Item) -> list[Choice]:
    frontier = Frontier([item])
    return [frontier.smallest.choices[item.name], *(step.choice for step in frontier.steps)]


def _factor(observed: list[tuple[float, float, float]]) -> float:
    """Measured over predicted change, drawn to 1 by as much as it is uncertain."""
    weight = sum(predicted**2 for predicted, _, _ in observed)
    if not weight:
        return 1.0
    ratio = sum(predicted * measured for predicted, measured, _ in observed) / weight
    error = math.sqrt(sum((predicted * noise) ** 2 for predicted, _, noise in observed)) / weight
    ratio = max(ratio, 1 / _MOST)
    trust = _DOUBT**2 / (_DOUBT**2 + (error / ratio) ** 2)
    return min(_MOST, max(1 / _MOST, math.exp(trust * math.log(ratio))))
