"""The plan: every tensor's type, reason and size, and every check, before the first output byte."""

from __future__ import annotations

from apex.planning.options import PlanOptions, files_read
from apex.planning.planned import Plan, PlannedFile, PlannedTensor, RoleTotal
from apex.planning.planner import plan

__all__ = ["Plan", "PlanOptions", "PlannedFile", "PlannedTensor", "RoleTotal", "files_read", "plan"]
