"""Tasks of lm-evaluation-harness, run on models that are open here."""

from __future__ import annotations

from apex.evaluation.harness.loading import HarnessOptions
from apex.evaluation.harness.running import Harness
from apex.evaluation.harness.scores import HarnessScore

__all__ = ["Harness", "HarnessOptions", "HarnessScore"]
