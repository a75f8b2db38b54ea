"""Evaluation: perplexity, KL divergence, tasks, speed."""

from __future__ import annotations

from apex.evaluation.evaluate import (
    EvalOptions,
    EvalProgress,
    Evaluator,
    ModelResult,
    SpeedOptions,
)
from apex.evaluation.statistics import Divergence, Measured, Perplexity
from apex.evaluation.tasks import KINDS, TaskResult

__all__ = [
    "KINDS",
    "Divergence",
    "EvalOptions",
    "EvalProgress",
    "Evaluator",
    "Measured",
    "ModelResult",
    "Perplexity",
    "SpeedOptions",
    "TaskResult",
]
