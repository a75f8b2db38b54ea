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
    from apex.files.moments import MomentsEntry as MomentsEntry
    from apex.files.moments import SecondMoments as SecondMoments
    from apex.files.moments import is_second_moments as is_second_moments
    from apex.files.moments import load_second_moments as load_second_moments
    from apex.files.moments_output import MomentsContent as MomentsContent
    from apex.files.moments_output import MomentsWriter as MomentsWriter
    from apex.files.moments_output import merge_second_moments as merge_second_moments
    from apex.files.moments_output import missing_bytes as missing_bytes

__all__ = [
    "ImportanceEntry",
    "ImportanceMatrix",
    "MomentsContent",
    "MomentsEntry",
    "MomentsWriter",
    "OutputFile",
    "OutputSet",
    "SecondMoments",
    "check_output",
    "is_second_moments",
    "load_imatrix",
    "load_second_moments",
    "merge_second_moments",
    "missing_bytes",
    "output_error",
    "write_imatrix",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from apex.files import imatrix, moments, moments_output  # with numpy, which a plan can spare

    room = next(room for room in (imatrix, moments, moments_output) if name in room.__all__)
    return getattr(room, name)
