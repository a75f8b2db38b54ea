"""The plan: every tensor's type, reason and place, and every check, before the first output byte.

options → request (read) → wishes (rules, names, recipe) → decide (llama.cpp) → checks → layout →
data. ``serial`` writes a plan as JSON and reads it.
"""

from __future__ import annotations

from apex.planning.data import MatrixReference, Plan, PlannedFile, RoleTotal
from apex.planning.importance import ImportanceReference, find_importance
from apex.planning.layout import build_header
from apex.planning.moments import require_moments
from apex.planning.options import PlanOptions
from apex.planning.planner import plan
from apex.planning.rounding import rounding_for
from apex.planning.serial import load_plan, plan_from_dict
from apex.planning.tensor import (
    REFERENCE,
    ROUNDING_KEY,
    ROUNDINGS,
    MomentsReference,
    PlannedTensor,
)

__all__ = [
    "REFERENCE",
    "ROUNDINGS",
    "ROUNDING_KEY",
    "ImportanceReference",
    "MatrixReference",
    "MomentsReference",
    "Plan",
    "PlanOptions",
    "PlannedFile",
    "PlannedTensor",
    "RoleTotal",
    "build_header",
    "find_importance",
    "load_plan",
    "plan",
    "plan_from_dict",
    "require_moments",
    "rounding_for",
]
