"""Quantize Mixture-of-Experts GGUF models, with the bytes of llama.cpp."""

from __future__ import annotations

from pkgutil import extend_path

# Python run in a checkout finds this folder before the installed package, which has the extension.
__path__ = extend_path(__path__, __name__)

from apex._core import __version__
from apex.calibration import ImportanceAccumulator, calibrate
from apex.cpu import CpuInfo, cpu_info
from apex.errors import (
    ApexError,
    DataError,
    DeviceError,
    ImatrixError,
    ModelFileError,
    OutputError,
    PlanError,
    RunError,
    UsageError,
)
from apex.evaluation import EvalOptions, Evaluator
from apex.gpu import gpus
from apex.planning import Plan, plan
from apex.policy import Recipe, load_recipe, tiers
from apex.quantizing import Progress, QuantizeResult, quantize
from apex.reporting import report
from apex.sources import ModelFile, open_model
from apex.verification import VerifyReport, verify

__all__ = [
    "ApexError",
    "CpuInfo",
    "DataError",
    "DeviceError",
    "EvalOptions",
    "Evaluator",
    "ImatrixError",
    "ImportanceAccumulator",
    "ModelFile",
    "ModelFileError",
    "OutputError",
    "Plan",
    "PlanError",
    "Progress",
    "QuantizeResult",
    "Recipe",
    "RunError",
    "UsageError",
    "VerifyReport",
    "__version__",
    "calibrate",
    "cpu_info",
    "gpus",
    "load_recipe",
    "open_model",
    "plan",
    "quantize",
    "report",
    "tiers",
    "verify",
]
