"""Which GPUs a run uses, on machines with and without."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from apex import _core
from apex.cli.values import parse_devices
from apex.errors import DeviceError, UsageError
from apex.gpu import choose_gpus, gpus


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three GPUs; the build has no kernels for the second."""
    found = [
        SimpleNamespace(index=index, name=f"GPU {index}", is_supported=index != 1)
        for index in range(3)
    ]
    monkeypatch.setattr(_core, "cuda_is_built", lambda: True)
    monkeypatch.setattr(_core, "devices", lambda: found)


def chosen(backend: str, devices: list[int] | None = None) -> list[int]:
    return [device.index for device in choose_gpus(backend, devices)]


def test_without_a_word_all_that_can_be_used(machine: None) -> None:
    assert [device.index for device in gpus()] == [0, 2]
    assert chosen("auto") == [0, 2]
    assert chosen("cpu") == []


def test_those_that_are_named(machine: None) -> None:
    assert chosen("auto", [2]) == [2]
    assert chosen("cuda", [2, 0, 2]) == [2, 0]
    with pytest.raises(DeviceError, match="no GPU 3"):
        chosen("auto", [0, 3])
    for backend in ("auto", "cuda"):
        with pytest.raises(DeviceError, match="no kernels for the GPU 1"):
            chosen(backend, [0, 1])


def test_what_makes_no_sense(machine: None) -> None:
    with pytest.raises(UsageError, match="no backend 'gpu'"):
        chosen("gpu")
    with pytest.raises(UsageError, match="uses no GPU, but GPUs are named"):
        chosen("cpu", [0])


def test_no_gpu_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> list[_core.Device]:
        raise _core.DeviceError("no GPU was found: why")

    monkeypatch.setattr(_core, "cuda_is_built", lambda: True)
    monkeypatch.setattr(_core, "devices", none)
    assert chosen("auto") == []
    for backend, devices in (("cuda", None), ("auto", [0])):
        with pytest.raises(DeviceError, match="No GPU was found: why") as caught:
            chosen(backend, devices)
        assert "--backend cpu" in caught.value.hint


def test_a_build_without_kernels_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "cuda_is_built", lambda: False)
    with pytest.raises(DeviceError, match="no CUDA kernels"):
        chosen("cuda")


@pytest.mark.parametrize(("text", "numbers"), [("0", [0]), ("1,0", [1, 0]), (" 2 , 3 ", [2, 3])])
def test_numbers_on_the_command_line(text: str, numbers: list[int]) -> None:
    assert parse_devices(text) == numbers


@pytest.mark.parametrize("text", ["", "all", "0,", "-1", "0 1", "1.5"])
def test_no_numbers_on_the_command_line(text: str) -> None:
    with pytest.raises(UsageError, match="does not name GPUs"):
        parse_devices(text)
