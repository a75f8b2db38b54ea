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
        threads: processors that this process may use.
    """

    isa: str
    available: tuple[str, ...]
    threads: int


def cpu_info() -> CpuInfo:
    """Tell what runs. Raises UsageError where APEX_ISA names what this CPU or build lacks."""
    try:
        isa = _core.active_isa()
    except ValueError as error:
        raise UsageError(f"{error}.", "set APEX_ISA to one of them, or unset it") from None
    return CpuInfo(isa, tuple(_core.available_isas()), _core.available_threads())
