"""What a report is about: models, and what was measured of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apex.reporting.settings import Setting

__all__ = [
    "Divergence",
    "HarnessResult",
    "Model",
    "Number",
    "Results",
    "SpeedResult",
    "TaskResult",
    "TextResult",
]


@dataclass(frozen=True)
class Number:
    """A measured value and its error; NaN where the file says that it was not finite."""

    value: float
    error: float


@dataclass(eq=False)
class Model:
    """One model, whatever was measured of it.

    Attributes:
        name: the file's name without its ending.
        label: the name, with what sets it apart from other models of that name.
        path: where it was.
        sha256: of its files; empty where nobody asked.
        bytes, bits_per_weight: of the file.
        is_reference: whether others were compared with it.
        tensors: every matrix with layer, role, type and, where known, error.
    """

    name: str
    path: str
    sha256: frozenset[str]
    bytes: int
    bits_per_weight: float
    is_reference: bool
    tensors: list[dict[str, Any]]
    label: str = ""


@dataclass(frozen=True)
class Divergence:
    """How far from the reference; KL divergence in nats, the others shares of 1."""

    kl: Number
    median: float
    p99_9: float
    maximum: float
    same_top: Number
    dp_rms: Number


@dataclass(frozen=True)
class TextResult:
    """What was measured of one model over one text; None where it was not."""

    model: Model
    setting: Setting
    perplexity: Number | None
    divergence: Divergence | None
    mtp_agreement: Number | None
    mtp_perplexity: Number | None


@dataclass(frozen=True)
class TaskResult:
    """How many tasks of a file a model solved; shares of 1."""

    model: Model
    setting: Setting
    task: str
    accuracy: Number
    correct: int
    tasks: int
    chance: float


@dataclass(frozen=True)
class HarnessResult:
    """One number of a task of lm-evaluation-harness, as that gives it.

    Attributes:
        task: its name, and how it was asked.
        metric: its name, with its filter, and an arrow to where it is better.
    """

    model: Model
    setting: Setting
    task: str
    metric: str
    value: Number


@dataclass(frozen=True)
class SpeedResult:
    """Tokens per second by kind, such as "pp512"; the errors are standard deviations."""

    model: Model
    setting: Setting
    speeds: Mapping[str, Number]


@dataclass(frozen=True)
class Results:
    """Everything that some files say.

    Attributes:
        models: smallest file first.
        texts, tasks, harness, speeds: one for each model and setting, in the order of the models.
        sources: the name of each file, and machine, versions and settings in words.
        notes: what the reader should know.
    """

    models: Sequence[Model]
    texts: Sequence[TextResult]
    tasks: Sequence[TaskResult]
    harness: Sequence[HarnessResult]
    speeds: Sequence[SpeedResult]
    sources: Sequence[tuple[str, Mapping[str, str]]]
    notes: Sequence[str]
