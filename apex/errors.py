"""The exceptions of apex: one sentence about the user's problem, a hint, an exit status.

The library raises these and never prints or exits; only ``apex.cli`` turns them into text and an
exit status.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ApexError",
    "DataError",
    "DeviceError",
    "ImatrixError",
    "ModelFileError",
    "OutputError",
    "PlanError",
    "RunError",
    "SensitivityError",
    "UsageError",
]


class ApexError(Exception):
    """Base of every error that apex raises on purpose.

    Attributes:
        message: one sentence that says what is wrong.
        hint: what the user can do about it, or an empty string.
        exit_code: the status with which the command line ends.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class UsageError(ApexError):
    """An option, a recipe or a pattern cannot be used as given (exit status 2)."""

    exit_code = 2


class ModelFileError(ApexError):
    """A GGUF file is missing, malformed, truncated or of an unknown kind (exit status 3)."""

    exit_code = 3


class ImatrixError(ApexError):
    """An importance matrix is unreadable, incomplete or of another model (exit status 4)."""

    exit_code = 4


class PlanError(ApexError):
    """The model cannot be quantized as asked (exit status 5)."""

    exit_code = 5


class OutputError(ApexError):
    """The output cannot be written: it exists, the disk is full, … (exit status 6)."""

    exit_code = 6


class DataError(ApexError):
    """Weights are NaN or infinite, or a quantized block is (exit status 7)."""

    exit_code = 7


class RunError(ApexError):
    """A model cannot be run: libllama refuses it, or the memory is too small (exit status 8)."""

    exit_code = 8


class DeviceError(ApexError):
    """A GPU was asked for and cannot be used, or failed (exit status 9)."""

    exit_code = 9


class SensitivityError(ApexError):
    """A sensitivity file is unreadable, damaged or of another model (exit status 10)."""

    exit_code = 10
