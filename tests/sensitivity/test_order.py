"""In which order probes are made."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest

from apex.sensitivity import Group
from apex.sensitivity.order import probe_order


def groups(layers: int, kinds: Sequence[str] = ("value", "down experts")) -> list[Group]:
    inside = [
        Group(f"{layer}, {kind}", kind, layer, (f"{layer}.{kind}",))
        for layer in range(layers)
        for kind in kinds
    ]
    return [
        Group("embedding", "embedding", None, ("e",)),
        *inside,
        Group("output", "output", None, ("o",)),
    ]


@pytest.mark.parametrize("layers", [0, 1, 2, 3, 7, 40])
def test_every_probe_once_and_one_level_after_the_other(layers: int) -> None:
    all_groups = groups(layers)
    order = probe_order(all_groups, ("Q3_K", "IQ2_S"))
    half = len(order) // 2
    assert half == len(all_groups)
    for part, level in ((order[:half], "Q3_K"), (order[half:], "IQ2_S")):
        assert {each for _, each in part} == {level}
        assert sorted(index for index, _ in part) == list(range(len(all_groups)))
    assert [index for index, _ in order[:half]] == [index for index, _ in order[half:]]


def test_what_is_there_once_and_the_ends_come_first() -> None:
    """Then the middle, then the middles of what lies between: no gap is more than twice another."""
    all_groups = groups(9)
    order = [all_groups[index] for index, _ in probe_order(all_groups, ("Q3_K",))]
    assert {group.name for group in order[:4]} >= {"embedding", "output"}
    for kind in ("value", "down experts"):
        layers = [group.layer for group in order if group.kind == kind]
        assert layers[:3] == [0, 8, 4]
        assert set(layers[3:5]) == {2, 6}
        for count in range(2, 10):
            taken = sorted(layer for layer in layers[:count] if layer is not None)
            gaps = [b - a for a, b in pairwise(taken)]
            assert max(gaps) <= 2 * min(gaps)


def test_kinds_take_turns() -> None:
    all_groups = groups(8)
    order = [all_groups[index].kind for index, _ in probe_order(all_groups, ("Q3_K",))]
    inside = [kind for kind in order if kind not in ("embedding", "output")]
    assert all(set(inside[i : i + 2]) == {"value", "down experts"} for i in range(0, 16, 2))
