"""Compares a quantized model with its source: ``compare``; what comes of it: ``report``."""

from __future__ import annotations

from apex.verification.compare import verify
from apex.verification.report import RoleError, TensorError, VerifyReport

__all__ = ["RoleError", "TensorError", "VerifyReport", "verify"]
