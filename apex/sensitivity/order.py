"""In which order probes are made, so that a run that is stopped is already useful: pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from apex.sensitivity.data import Group

__all__ = ["probe_order"]


def probe_order(groups: Sequence[Group], levels: Sequence[str]) -> list[tuple[int, str]]:
    """(index of the group, level) of every probe.

    One level after the other. Within a level first what is there once, then the kinds in turn,
    each at layers from all over the model: what lies between can be estimated from its neighbours.
    """
    by_kind: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        by_kind[group.kind].append(index)
    ranked = [
        (rank, number, index)
        for number, members in enumerate(sorted(by_kind.values(), key=len))
        for rank, index in zip(_spread(len(members)), members, strict=True)
    ]
    order = [index for _, _, index in sorted(ranked)]
    return [(index, level) for level in levels for index in order]


def _spread(count: int) -> list[int]:
    """A rank for each of ``count`` places: first the ends, then always the largest gap's middle."""
    ranks = [0] * count
    chosen = [0, count - 1][:count]
    for rank, place in enumerate(chosen):
        ranks[place] = rank
    while len(chosen) < count:
        chosen.sort()
        start = max(range(len(chosen) - 1), key=lambda index: chosen[index + 1] - chosen[index])
        place = (chosen[start] + chosen[start + 1]) // 2
        ranks[place] = len(chosen)
        chosen.append(place)
    return ranks
