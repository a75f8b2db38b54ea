"""Compares a quantized model with its source: ``compare``, ``outputs``; what comes: ``report``."""

from __future__ import annotations

from apex.verification.compare import verify
from apex.verification.outputs import OutputErrors
from apex.verification.report import RoleError, TensorError, VerifyReport

__all__ = ["OutputErrors", "RoleError", "TensorError", "VerifyReport", "verify"]
