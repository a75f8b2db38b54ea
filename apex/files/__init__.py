"""Files that apex writes and reads beside models: checks, atomic outputs, importance matrices."""

from __future__ import annotations

from apex.files.checks import check_output
from apex.files.imatrix import ImportanceEntry, ImportanceMatrix, load_imatrix, write_imatrix
from apex.files.output import OutputFile, OutputSet, output_error

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
