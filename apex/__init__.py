"""Quantize Mixture-of-Experts GGUF models, with the bytes of llama.cpp."""

from __future__ import annotations

from pkgutil import extend_path

# Python run in a checkout finds this folder before the installed package, which has the extension.
__path__ = extend_path(__path__, __name__)

from apex._core import __version__
from apex.cpu import CpuInfo, cpu_info
from apex.errors import (
    ApexError,
    DataError,
    ImatrixError,
    ModelFileError,
    OutputError,
    PlanError,
    UsageError,
)
from apex.gguf import ModelFile, open_model
from apex.planning import Plan, plan
from apex.policy import Recipe, load_recipe, tiers
from apex.streaming import Progress, QuantizeResult, quantize
from apex.verification import VerifyReport, verify

__all__ = [
    "ApexError",
    "CpuInfo",
    "DataError",
    "ImatrixError",
    "ModelFile",
    "ModelFileError",
    "OutputError",
    "Plan",
    "PlanError",
    "Progress",
    "QuantizeResult",
    "Recipe",
    "UsageError",
    "VerifyReport",
    "__version__",
    "cpu_info",
    "load_recipe",
    "open_model",
    "plan",
    "quantize",
    "tiers",
    "verify",
]
