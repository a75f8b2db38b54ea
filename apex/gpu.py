"""Which GPUs quantize."""

from __future__ import annotations

from collections.abc import Sequence

from apex import _core
from apex.errors import DeviceError, UsageError

__all__ = ["BACKENDS", "choose_gpus", "gpus"]

BACKENDS = ("auto", "cpu", "cuda")


def gpus() -> tuple[_core.Device, ...]:
    """The GPUs of this machine that this build has kernels for; without any, an empty tuple."""
    try:
        return tuple(device for device in _core.devices() if device.is_supported)
    except _core.DeviceError:
        return ()


def choose_gpus(backend: str, devices: Sequence[int] | None) -> tuple[_core.Device, ...]:
    """The GPUs that a run uses; none for the processor alone.

    Raises UsageError for an unknown backend, DeviceError where a GPU is asked for and
    cannot be had.
    """
    if backend not in BACKENDS:
        raise UsageError(f"There is no backend {backend!r}.", "use auto, cpu or cuda")
    if backend == "cpu":
        if devices:
            raise UsageError(
                "The backend cpu uses no GPU, but GPUs are named.",
                "leave out the backend or the GPUs",
            )
        return ()
    if backend == "auto" and not devices:
        return gpus()
    if not _core.cuda_is_built():
        raise DeviceError(
            "This build of apex has no CUDA kernels.",
            "install it from source on a machine with nvcc, or use --backend cpu",
        )
    try:
        known = {device.index: device for device in _core.devices()}
    except _core.DeviceError as error:
        raise DeviceError(
            f"{str(error)[:1].upper()}{str(error)[1:]}.",
            "check the driver with nvidia-smi, or use --backend cpu",
        ) from None
    chosen = []
    for index in dict.fromkeys(devices or known):
        if index not in known:
            raise DeviceError(
                f"There is no GPU {index}.",
                f"this machine has: {', '.join(map(str, known)) or 'none'}",
            )
        if not known[index].is_supported:
            raise DeviceError(
                f"This build has no kernels for the GPU {index} ({known[index].name}).",
                "build apex for its architecture with APEX_CUDA_ARCHITECTURES",
            )
        chosen.append(known[index])
    return tuple(chosen)
