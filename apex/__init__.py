"""Quantize Mixture-of-Experts GGUF models, with the bytes of llama.cpp.

Names are imported when they are first used (PEP 562), so that ``import apex`` is cheap and
``apex.policy`` works without the compiled extension.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

# Python run in a checkout finds this folder before the installed package, which has the extension.
__path__ = extend_path(__path__, __name__)

if TYPE_CHECKING:
    from apex._core import __version__ as __version__
    from apex.calibration import ImportanceAccumulator as ImportanceAccumulator
    from apex.calibration import calibrate as calibrate
    from apex.conversion import ConvertResult as ConvertResult
    from apex.conversion import convert as convert
    from apex.cpu import CpuInfo as CpuInfo
    from apex.cpu import cpu_info as cpu_info
    from apex.errors import ApexError as ApexError
    from apex.errors import DataError as DataError
    from apex.errors import DeviceError as DeviceError
    from apex.errors import ImatrixError as ImatrixError
    from apex.errors import ModelFileError as ModelFileError
    from apex.errors import OutputError as OutputError
    from apex.errors import PlanError as PlanError
    from apex.errors import RunError as RunError
    from apex.errors import SensitivityError as SensitivityError
    from apex.errors import UsageError as UsageError
    from apex.evaluation import EvalOptions as EvalOptions
    from apex.evaluation import Evaluator as Evaluator
    from apex.fitting import Constraints as Constraints
    from apex.fitting import Fit as Fit
    from apex.fitting import Wish as Wish
    from apex.fitting import fit as fit
    from apex.gpu import gpus as gpus
    from apex.planning import Plan as Plan
    from apex.planning import load_plan as load_plan
    from apex.planning import plan as plan
    from apex.policy import Recipe as Recipe
    from apex.policy import load_recipe as load_recipe
    from apex.policy import tiers as tiers
    from apex.quantizing import Progress as Progress
    from apex.quantizing import QuantizeResult as QuantizeResult
    from apex.quantizing import RunSettings as RunSettings
    from apex.quantizing import measure_errors as measure_errors
    from apex.quantizing import quantize as quantize
    from apex.quantizing import quantize_all as quantize_all
    from apex.reporting import report as report
    from apex.sensitivity import MeasureOptions as MeasureOptions
    from apex.sensitivity import Sensitivity as Sensitivity
    from apex.sensitivity import load_sensitivity as load_sensitivity
    from apex.sensitivity import measure as measure
    from apex.sources import ModelFile as ModelFile
    from apex.sources import Source as Source
    from apex.sources import open_model as open_model
    from apex.sources import open_source as open_source
    from apex.verification import VerifyReport as VerifyReport
    from apex.verification import verify as verify

# Where each public name comes from.
_ROOMS = {
    "_core": ("__version__",),
    "calibration": ("ImportanceAccumulator", "calibrate"),
    "conversion": ("ConvertResult", "convert"),
    "cpu": ("CpuInfo", "cpu_info"),
    "errors": (
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
    ),
    "evaluation": ("EvalOptions", "Evaluator"),
    "fitting": ("Constraints", "Fit", "Wish", "fit"),
    "gpu": ("gpus",),
    "planning": ("Plan", "load_plan", "plan"),
    "policy": ("Recipe", "load_recipe", "tiers"),
    "quantizing": (
        "Progress",
        "QuantizeResult",
        "RunSettings",
        "measure_errors",
        "quantize",
        "quantize_all",
    ),
    "reporting": ("report",),
    "sensitivity": ("MeasureOptions", "Sensitivity", "load_sensitivity", "measure"),
    "sources": ("ModelFile", "Source", "open_model", "open_source"),
    "verification": ("VerifyReport", "verify"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = sorted(_ROOM_OF)


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_ROOM_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
