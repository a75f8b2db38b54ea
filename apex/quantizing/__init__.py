"""Runs a plan: reading, quantizing and writing overlap, in bounded memory."""

from apex.quantizing.result import DeviceUse, Progress, QuantizeResult, Timings
from apex.quantizing.run import DEFAULT_MAX_MEMORY, check_plan_output, output_paths, quantize

__all__ = [
    "DEFAULT_MAX_MEMORY",
    "DeviceUse",
    "Progress",
    "QuantizeResult",
    "Timings",
    "check_plan_output",
    "output_paths",
    "quantize",
]
