"""What the kernels run on."""

from __future__ import annotations

from dataclasses import dataclass

from apex import _core
from apex.errors import UsageError

__all__ = ["CpuInfo", "cpu_info"]


@dataclass(frozen=True)
class CpuInfo:
    """What the kernels run on.

    Attributes:
        isa: the instruction set in use: the widest, or the one that the environment variable
            APEX_ISA names.
        available: the instruction sets of this build that this CPU runs, from narrow to wide.
        variant: the variant of llama.cpp's CPU backend that runs models: in a build for any CPU the
            widest, or the one that the environment variable APEX_CPU_VARIANT names; else native.
        threads: processors that this process may use.
    """

    isa: str
    available: tuple[str, ...]
    variant: str
    threads: int


def cpu_info() -> CpuInfo:
    """Tell what runs.

    Raises UsageError where APEX_ISA or APEX_CPU_VARIANT names what this CPU or build lacks.
    """
    try:
        isa, variant = _core.active_isa(), _core.active_variant()
    except ValueError as error:
        name = str(error).split()[0]
        raise UsageError(f"{error}.", f"set {name} to one of them, or unset it") from None
    return CpuInfo(isa, tuple(_core.available_isas()), variant, _core.available_threads())
