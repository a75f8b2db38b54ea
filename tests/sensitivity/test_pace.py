"""How many chunks fit into the time, with a clock of the test's."""

from __future__ import annotations

import pytest

from apex.sensitivity import pace
from apex.sensitivity.pace import Pace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [
        (None, 1e9, 8),
        (1000.0, 0.0, 8),  # 10 probes of 8 chunks take 160 s, changing weights 20 s
        (180.0, 0.0, 8),
        (179.0, 0.0, 7),
        (180.0, 60.0, 5),
        (60.0, 0.0, 2),
        (41.0, 0.0, 1),
        (5.0, 0.0, 1),
        (5.0, 10.0, 1),
    ],
)
def test_as_many_chunks_as_there_is_time_for(
    clock: list[float], limit: float | None, used: float, expected: int
) -> None:
    time = Pace(limit)
    clock[0] += used
    assert time.chunks_for(10, 8, 2.0, 20.0) == expected
    assert time.is_limited == (limit is not None)


def test_it_is_late_when_another_probe_does_not_fit(clock: list[float]) -> None:
    time = Pace(30.0)
    clock[0] += 5
    time.begin(8.0)
    assert not time.is_late()
    clock[0] += 10
    time.count()  # it took 10 s
    assert (time.probe_seconds, time.seconds, time.is_late()) == (10, 15, False)
    clock[0] += 6
    time.count()
    assert (time.probe_seconds, time.is_late()) == (8, False)
    clock[0] += 3
    time.count()
    assert (time.probe_seconds, time.is_late()) == (pytest.approx(19 / 3), True)


def test_without_a_limit_it_is_never_late(clock: list[float]) -> None:
    time = Pace(None)
    time.begin(1e9)
    clock[0] += 1e9
    assert not time.is_late()
