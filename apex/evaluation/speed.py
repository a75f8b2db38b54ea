"""Prompt processing and token generation, as llama-bench measures them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from apex import _core
from apex.evaluation.statistics import Measured
from apex.inference import RunOptions, make_context, running
from apex.sources import ModelFile

__all__ = ["Speed", "measure_speed"]


@dataclass(frozen=True)
class Speed:
    """Tokens per second: mean and standard deviation over the repetitions.

    Attributes:
        prompt_tokens, generated_tokens: how many each repetition ran.
        prompt, generation: tokens per second.
        repetitions: how many.
    """

    prompt_tokens: int
    generated_tokens: int
    prompt: Measured
    generation: Measured
    repetitions: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "repetitions": self.repetitions,
            f"pp{self.prompt_tokens}": self.prompt.to_dict(),
            f"tg{self.generated_tokens}": self.generation.to_dict(),
        }


def measure_speed(
    file: ModelFile,
    model: _core.Model,
    options: RunOptions,
    *,
    prompt_tokens: int = 512,
    generated_tokens: int = 128,
    repetitions: int = 5,
    progress: Callable[[str, int, int], None] | None = None,
) -> Speed:
    """Measure on random tokens, after a warm-up, in an empty context each time."""
    longest = max(prompt_tokens, generated_tokens)
    context = make_context(file, model, replace(options, context_length=longest), sequences=1)
    random = np.random.default_rng(1)

    def run(begin: int, count: int) -> None:
        tokens = random.integers(0, model.vocabulary_size, count, np.int32)
        if begin == 0 and model.adds_bos:
            tokens[0] = model.bos
        positions = np.arange(begin, begin + count, dtype=np.int32)
        context.decode(tokens, positions, np.zeros_like(tokens), positions == begin + count - 1)

    def prompt() -> None:
        for begin in range(0, prompt_tokens, options.batch_size):
            run(begin, min(options.batch_size, prompt_tokens - begin))

    def generate() -> None:
        for position in range(generated_tokens):
            run(position, 1)

    done = 0
    rates: dict[str, list[float]] = {}
    with running(file.path):
        for name, tokens, test in (
            (f"pp{prompt_tokens}", prompt_tokens, prompt),
            (f"tg{generated_tokens}", generated_tokens, generate),
        ):
            context.clear()
            prompt() if test is prompt else run(0, 1)
            for _ in range(repetitions):
                context.clear()
                begin = time.perf_counter()
                test()
                rates.setdefault(name, []).append(tokens / (time.perf_counter() - begin))
                done += 1
                if progress is not None:
                    progress(name, done, 2 * repetitions)
    prompt_rate, generation_rate = (_spread(values) for values in rates.values())
    return Speed(prompt_tokens, generated_tokens, prompt_rate, generation_rate, repetitions)


def _spread(values: list[float]) -> Measured:
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return Measured(float(np.mean(values)), deviation)
