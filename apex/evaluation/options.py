"""What an evaluation measures, and how far it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from apex.evaluation.harness import HarnessOptions
from apex.inference import RunOptions

__all__ = ["EvalOptions", "EvalProgress", "Report", "SpeedOptions"]


@dataclass(frozen=True)
class SpeedOptions:
    """How speed is measured: tokens of prompt and generation, repetitions."""

    prompt_tokens: int = 512
    generated_tokens: int = 128
    repetitions: int = 5


@dataclass(frozen=True)
class EvalOptions:
    """What is measured, and how.

    Attributes:
        run: how the models are run.
        text: for perplexity and divergence.
        chunks: how many chunks of the text to run at most.
        tasks: (kind, file, number or None) of HellaSwag, Winogrande or multiple choice.
        harness: tasks of lm-evaluation-harness; None for none.
        speed: None to leave it out.
        mtp: run the multi-token-prediction head too.
        tensor_errors: compare every tensor's weights with the reference model's.
        file_hash: SHA-256 of the models' files.
    """

    run: RunOptions = field(default_factory=RunOptions)
    text: str | os.PathLike[str] | None = None
    chunks: int | None = None
    tasks: Sequence[tuple[str, str | os.PathLike[str], int | None]] = ()
    harness: HarnessOptions | None = None
    speed: SpeedOptions | None = None
    mtp: bool = False
    tensor_errors: bool = False
    file_hash: bool = True


@dataclass(frozen=True)
class EvalProgress:
    """How far an evaluation is.

    Attributes:
        stage: what is done, as in "perplexity" or "hellaswag".
        model: name of the file at work; empty where all run together.
        done, total: steps of the stage.
        estimate: the result so far, in words.
    """

    stage: str
    model: str
    done: int
    total: int
    estimate: str = ""


Report = Callable[[EvalProgress], None]
