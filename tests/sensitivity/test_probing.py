"""What a group becomes at a level."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from apex.errors import RunError, UsageError
from apex.sensitivity import Group, Probe
from apex.sensitivity.errors import CANDIDATES, Candidate
from apex.sensitivity.probing import Prober, distance_of, types_at, within_room
from apex.sources import Source, Tensor

BLOCKS_OF_32 = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL")
WITHOUT_IMPORTANCE = tuple(n for n in CANDIDATES if not n.startswith("IQ2") and n != "IQ3_XXS")
# Errors like those of Gaussian weights: four times as much for a bit less.
ERRORS = {
    "Q8_0": 3e-5, "Q6_K": 3e-4, "Q5_1": 1e-3, "Q5_K": 1.2e-3, "Q5_0": 1.6e-3, "Q4_1": 5e-3,
    "Q4_K": 5e-3, "Q4_0": 7e-3, "IQ4_NL": 5e-3, "IQ4_XS": 5.2e-3, "Q3_K": 2e-2, "IQ3_S": 1.7e-2,
    "IQ3_XXS": 3e-2, "Q2_K": 8e-2, "IQ2_S": 7e-2, "IQ2_XS": 9e-2, "IQ2_XXS": 0.12,
}  # fmt: skip


def tensor_of(name: str, type_name: str = "F16") -> Tensor:
    return Tensor(name, (256, 16), type_name)


def source_of(*tensors: Tensor) -> Source:
    reference = SimpleNamespace(name="a model")
    return cast("Source", SimpleNamespace(tensors=tensors, reference=reference))


def candidates(**types: tuple[str, ...]) -> dict[str, Candidate]:
    return {name: Candidate(tensor_of(name), each, None) for name, each in types.items()}


def tables(found: Mapping[str, Candidate]) -> dict[str, dict[str, float]]:
    return {name: {each: ERRORS[each] for each in item.types} for name, item in found.items()}


@pytest.mark.parametrize(
    ("types", "level", "expected"),
    [
        (CANDIDATES, "IQ2_S", "IQ2_S"),
        (WITHOUT_IMPORTANCE, "IQ2_S", "Q2_K"),
        (WITHOUT_IMPORTANCE, "IQ3_XXS", "IQ3_S"),
        (BLOCKS_OF_32, "Q3_K", "IQ4_NL"),
        (BLOCKS_OF_32, "Q6_K", "Q8_0"),
        (BLOCKS_OF_32, "Q4_K", "Q4_1"),
    ],
)
def test_the_level_or_the_next_larger(types: tuple[str, ...], level: str, expected: str) -> None:
    found = candidates(a=types)
    assert types_at(["a"], level, found, tables(found)) == {"a": expected}


def test_every_tensor_of_a_group_by_itself() -> None:
    found = candidates(a=CANDIDATES, b=BLOCKS_OF_32)
    types = types_at(["a", "b"], "Q3_K", found, tables(found))
    assert types == {"a": "Q3_K", "b": "IQ4_NL"}
    assert distance_of(types, tables(found)) == pytest.approx(2e-2 + 5e-3)


@pytest.mark.parametrize(
    ("types", "known", "level", "expected"),
    [
        (CANDIDATES, "Q3_K", "IQ2_S", "IQ2_S"),  # far apart
        (CANDIDATES, "Q2_K", "IQ2_S", "IQ3_XXS"),  # IQ2_S is as far off as Q2_K
        (BLOCKS_OF_32, "IQ4_NL", "IQ2_S", "Q5_0"),
        (("Q8_0",), "Q8_0", "IQ2_S", "Q8_0"),  # there is nothing else
    ],
)
def test_a_second_level_is_another_one(
    types: tuple[str, ...], known: str, level: str, expected: str
) -> None:
    found = candidates(a=types)
    probes = [Probe(known, ERRORS[known], 0.1, 0.0)]
    assert types_at(["a"], level, found, tables(found), probes) == {"a": expected}


def test_types_are_within_the_room_of_the_resident_file() -> None:
    found = {"a": Candidate(tensor_of("a", "F16"), CANDIDATES, None)}
    whole = source_of(tensor_of("a", "F16"))
    assert within_room(found, whole, ("Q8_0",)) == found
    small = source_of(tensor_of("a", "Q4_K"))
    limited = within_room(found, small, ("Q4_K", "IQ2_S"))
    assert limited["a"].types == CANDIDATES[CANDIDATES.index("Q4_K") :]
    with pytest.raises(UsageError, match="a is Q4_K in a model, which has no room for the level"):
        within_room(found, small, ("IQ2_S", "Q6_K"))


def test_where_one_tensor_has_no_room_for_more_the_others_go_on() -> None:
    found = candidates(a=CANDIDATES[CANDIDATES.index("Q4_K") :], b=CANDIDATES)
    known = [Probe("Q4_K", 2 * ERRORS["Q4_K"], 0.1, 0.0)]
    types = types_at(["a", "b"], "Q4_K", found, tables(found), known)
    assert types["a"] == "Q4_K" and CANDIDATES.index(types["b"]) < CANDIDATES.index("Q4_K")


class FakeResident:
    """Notes what it is asked to do."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []

    def type(self, name: str) -> str:
        return "Q8_0"

    def replace(self, name: str, type_name: str, data: object) -> None:
        self.calls.append((name, type_name))

    def restore(self) -> None:
        self.calls.append(("restored",))


class FakeDivergences:
    """Every chunk's KL is its number."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def measure(self, limit: int | None = None) -> np.ndarray:
        if self.error is not None:
            raise self.error
        return np.repeat(np.arange(limit or 5, dtype=np.float64)[:, np.newaxis], 4, axis=1)


class FakeProber(Prober):
    """Whose tensors need no source."""

    def __init__(self, found: Mapping[str, Candidate], error: BaseException | None = None) -> None:
        self.fake = FakeResident()
        resident, divergences = cast("Any", self.fake), cast("Any", FakeDivergences(error))
        super().__init__(source_of(), None, found, resident, divergences)

    def _quantized(self, *_: Any) -> np.ndarray:
        return np.empty(0, np.uint8)


def group_of(*names: str, probes: tuple[Probe, ...] = ()) -> Group:
    return Group("a group", "value", 0, names, probes)


def test_a_probe() -> None:
    """It is called by the smallest type, for which larger ones stand in."""
    found = candidates(a=CANDIDATES, b=BLOCKS_OF_32)
    prober = FakeProber(found)
    probe = prober.probe(group_of("a", "b"), "IQ3_XXS", tables(found), 3)
    assert prober.fake.calls == [("a", "IQ3_XXS"), ("b", "IQ4_NL"), ("restored",)]
    assert (probe.type, probe.distance, probe.kl) == ("IQ3_XXS", 0.035, 1.0)
    assert probe.error == pytest.approx(1 / 3**0.5, rel=1e-5)  # of 0, 1 and 2
    assert prober.probe(group_of("a"), "IQ3_XXS", tables(found)).kl == 2.0
    assert prober.probe(group_of("a"), "IQ3_XXS", tables(found), 1).error == 0.0
    found = candidates(a=WITHOUT_IMPORTANCE, b=BLOCKS_OF_32)
    probe = FakeProber(found).probe(group_of("a", "b"), "IQ3_XXS", tables(found))
    assert probe.type == "IQ3_S"


def test_the_same_probe_is_not_made_twice() -> None:
    found = candidates(a=("Q8_0",))
    prober = FakeProber(found)
    first = prober.probe(group_of("a"), "Q3_K", tables(found))
    calls = list(prober.fake.calls)
    assert prober.probe(group_of("a", probes=(first,)), "IQ2_S", tables(found)) == first
    assert prober.fake.calls == calls


def test_weights_are_given_back_whatever_happens() -> None:
    found = candidates(a=CANDIDATES)
    for error in (KeyboardInterrupt(), RunError("It does not run.")):
        prober = FakeProber(found, error)
        with pytest.raises(type(error)):
            prober.probe(group_of("a"), "Q3_K", tables(found))
        assert prober.fake.calls == [("a", "Q3_K"), ("restored",)]
    prober = FakeProber(found)
    assert prober.rehearse(group_of("a"), "Q3_K", tables(found)) >= 0
    assert prober.fake.calls == [("a", "Q3_K"), ("restored",)]
