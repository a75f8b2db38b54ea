"""Carries plans out: reading, quantizing and writing overlap, in bounded memory.

jobs (rows and what they become) go through slabs from a source to workers and on to sinks:
``run`` is the way in, ``setup`` takes workers and memory, ``stream`` holds the threads.
"""

from __future__ import annotations

from apex.quantizing.outputs import (
    check_plan_outputs,
    is_done,
    model_stem,
    output_name,
    output_paths,
)
from apex.quantizing.result import DeviceUse, Progress, QuantizeResult, Timings
from apex.quantizing.rounding import round_rows
from apex.quantizing.run import measure_errors, measure_errors_of, quantize, quantize_all
from apex.quantizing.settings import DEFAULT_MAX_MEMORY, RunSettings
from apex.quantizing.sinks import MeasuredError, Sink
from apex.quantizing.slabs import Slab
from apex.quantizing.workers import Objectives, Worker, register_workers, unregister_workers

__all__ = [
    "DEFAULT_MAX_MEMORY",
    "DeviceUse",
    "MeasuredError",
    "Objectives",
    "Progress",
    "QuantizeResult",
    "RunSettings",
    "Sink",
    "Slab",
    "Timings",
    "Worker",
    "check_plan_outputs",
    "is_done",
    "measure_errors",
    "measure_errors_of",
    "model_stem",
    "output_name",
    "output_paths",
    "quantize",
    "quantize_all",
    "register_workers",
    "round_rows",
    "unregister_workers",
]
