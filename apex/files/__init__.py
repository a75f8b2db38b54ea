"""Files that apex writes and reads beside models: checks, atomic outputs, importance matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apex.files.checks import check_output
from apex.files.output import OutputFile, OutputSet, output_error

if TYPE_CHECKING:
    from apex.files.imatrix import ImportanceEntry as ImportanceEntry
    from apex.files.imatrix import ImportanceMatrix as ImportanceMatrix
    from apex.files.imatrix import load_imatrix as load_imatrix
    from apex.files.imatrix import write_imatrix as write_imatrix

__all__ = [
    "ImportanceEntry",
    "ImportanceMatrix",
    "OutputFile",
    "OutputSet",
    "check_output",
    "load_imatrix",
    "output_error",
    "write_imatrix",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from apex.files import imatrix  # with numpy, which a plan can do without

    return getattr(imatrix, name)
