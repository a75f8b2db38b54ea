"""Evaluation: perplexity, KL divergence, tasks, speed."""

from __future__ import annotations

from apex.evaluation.evaluate import Evaluator
from apex.evaluation.harness import HarnessOptions, HarnessScore
from apex.evaluation.options import EvalOptions, EvalProgress, SpeedOptions
from apex.evaluation.results import ModelResult
from apex.evaluation.statistics import Divergence, Measured, Perplexity
from apex.evaluation.task_files import KINDS
from apex.evaluation.tasks import TaskResult

__all__ = [
    "KINDS",
    "Divergence",
    "EvalOptions",
    "EvalProgress",
    "Evaluator",
    "HarnessOptions",
    "HarnessScore",
    "Measured",
    "ModelResult",
    "Perplexity",
    "SpeedOptions",
    "TaskResult",
]
