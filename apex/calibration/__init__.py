"""Importance matrices: collecting, merging, statistics, and the built-in texts."""

from __future__ import annotations

from apex.calibration.collect import calibrate
from apex.calibration.coverage import Coverage, coverage_of
from apex.calibration.documents import BUILT_IN, Text, built_in, built_in_text, read_texts
from apex.calibration.matrix import ImportanceAccumulator
from apex.calibration.options import (
    CalibrationProgress,
    CalibrationResult,
    CollectOptions,
    MomentsPlan,
)

__all__ = [
    "BUILT_IN",
    "CalibrationProgress",
    "CalibrationResult",
    "CollectOptions",
    "Coverage",
    "ImportanceAccumulator",
    "MomentsPlan",
    "Text",
    "built_in",
    "built_in_text",
    "calibrate",
    "coverage_of",
    "read_texts",
]
