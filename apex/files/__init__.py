"""Files that apex writes and reads beside models: atomic outputs, importance matrices."""

from __future__ import annotations

from apex.files.imatrix import ImportanceEntry, ImportanceMatrix, load_imatrix, write_imatrix
from apex.files.output import OutputFile, OutputSet

__all__ = [
    "ImportanceEntry",
    "ImportanceMatrix",
    "OutputFile",
    "OutputSet",
    "load_imatrix",
    "write_imatrix",
]
