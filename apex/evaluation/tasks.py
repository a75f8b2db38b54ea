"""HellaSwag, Winogrande and multiple choice, by the definitions of llama.cpp's tools/perplexity.

Every task offers continuations of a context; the model's choice is the likeliest per token.
Grouping and even the oddities are those of llama-perplexity, so that the numbers can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.errors import RunError
from apex.evaluation.continuations import (
    SEQUENCES,
    Continuations,
    Layout,
    groups,
    lay_out,
    run_batch,
)
from apex.evaluation.statistics import share, wilson
from apex.evaluation.task_files import Choice, Tasks
from apex.inference import RunOptions, make_context, running
from apex.sources import ModelFile

__all__ = ["TaskResult", "run_tasks"]

# Winogrande scores only what follows the choices where both leave more tokens than this.
_MIN_TRAILING = 3
_FEWEST_FOR_ERROR = 100


@dataclass(frozen=True)
class TaskResult:
    """How a model did on a set of tasks.

    Attributes:
        kind: hellaswag, winogrande or multiple-choice.
        name: the file's name without its ending.
        correct, tasks: how many tasks were solved, and how many there were.
        accuracy, error: a share, and its standard error.
        interval: Wilson's 95 % interval.
        chance: the share that guessing would get.
    """

    kind: str
    name: str
    correct: int
    tasks: int
    chance: float

    @property
    def accuracy(self) -> float:
        """The share of tasks that were solved."""
        return self.correct / self.tasks if self.tasks else 0.0

    @property
    def error(self) -> float:
        """The standard error of the accuracy."""
        return share(self.correct, self.tasks).error

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval."""
        return wilson(self.accuracy, self.tasks) if self.tasks else (0.0, 1.0)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kind": self.kind,
            "name": self.name,
            "accuracy": self.accuracy,
            "error": self.error,
            "interval": list(self.interval),
            "correct": self.correct,
            "tasks": self.tasks,
            "chance": self.chance,
        }


class _Task(Continuations):
    """A task as tokens."""

    def __init__(self, choice: Choice, model: _core.Model) -> None:
        # Outside of Winogrande every continuation needs a token of its own, even one that is the
        # beginning of another.
        super().__init__(map(model.tokenize, choice.texts), own=0 if choice.contexts else 1)
        self.choice = choice
        self.bases = [len(model.tokenize(text)) for text in choice.contexts]


def run_tasks(
    file: ModelFile,
    model: _core.Model,
    tasks: Tasks,
    options: RunOptions,
    progress: Callable[[TaskResult, int], None] | None = None,
) -> TaskResult:
    """Let a model choose. Raises RunError.

    progress: called after every batch with the result so far and the number of all tasks.
    """
    sequences = max(SEQUENCES, *(len(choice.texts) for choice in tasks.choices))
    context = make_context(file, model, options, sequences=sequences, unified_cache=True)
    with running(file.path):
        tokenized = [_Task(choice, model) for choice in tasks.choices]
        correct = done = answers = 0
        length = sequences * options.context_length
        _check_length(tasks, tokenized, length)
        for group in groups(tokenized, length, sequences):
            for task, scores in zip(
                group, _scores(context, group, tasks.kind, options), strict=True
            ):
                correct += _best(scores, tasks.kind) in task.choice.correct
                answers += len(task.tokens)
                done += 1
            result = TaskResult(tasks.kind, tasks.path.stem, correct, done, done / answers)
            if progress is not None:
                progress(result, len(tokenized))
    return result


def _check_length(tasks: Tasks, tokenized: Sequence[_Task], length: int) -> None:
    for index, task in enumerate(tokenized):
        if task.needed > length:
            raise RunError(
                f"{tasks.path}: task {index + 1} takes {task.needed} tokens, and there is room "
                f"for {length}.",
                "use a larger --ctx-size",
            )


def _scores(
    context: _core.Context, group: Sequence[_Task], kind: str, options: RunOptions
) -> Iterator[npt.NDArray[np.float64]]:
    """Of each task, the mean log-probability of each continuation."""
    # Winogrande asks for the logits of the last token too, which nobody reads.
    unread = 0 if kind == "winogrande" else 1
    starts = []
    rows = 0
    for task in group:
        # Without a common prefix there is no row for its last token; it is counted all the same, as
        # there, and moves what follows by one.
        starts.append(rows)
        rows += 1 + sum(len(part) - task.prefix - unread for part in task.tokens)
    wanted = [
        _winogrande_pairs(task, start) if kind == "winogrande" else _pairs(task, start)
        for task, start in zip(group, starts, strict=True)
    ]
    heads = [
        (np.full(len(task.tokens), start), np.array([part[task.prefix] for part in task.tokens]))
        if kind != "winogrande"
        else (np.empty(0, int), np.empty(0, int))
        for task, start in zip(group, starts, strict=True)
    ]
    batch = lay_out(group, lambda part, places: places < len(part) - unread)
    read = _read(context, batch, options, [pair for pairs in wanted for pair in pairs], heads)
    values, first_values = map(iter, read)
    for task, pairs in zip(group, wanted, strict=True):
        own = [next(values) for _ in pairs]
        if kind == "winogrande":
            yield np.array([_float_mean(part, len(part)) for part in own])
        else:
            yield _with_first(own, next(first_values), task, kind)


Pair = tuple[npt.NDArray[Any], npt.NDArray[Any]]  # rows of logits, tokens
Values = list[npt.NDArray[np.float32]]


def _read(
    context: _core.Context,
    batch: Layout,
    options: RunOptions,
    pairs: Sequence[Pair],
    heads: Sequence[Pair],
) -> tuple[Values, Values]:
    """Log-probabilities of the pairs, and probabilities of the heads, in their order."""
    scores = [np.zeros(len(rows), np.float32) for rows, _ in pairs]
    firsts = [np.zeros(len(rows), np.float32) for rows, _ in heads]
    for there in run_batch(context, batch, options):
        for wanted, result, read in (
            (pairs, scores, context.log_probabilities),
            (heads, firsts, context.probabilities),
        ):
            for (rows, tokens), target in zip(wanted, result, strict=True):
                here = (rows >= there.start) & (rows < there.stop)
                if here.any():
                    target[here] = read(rows[here] - there.start, tokens[here], options.threads)
    return scores, firsts


def _pairs(task: _Task, start: int) -> list[Pair]:
    pairs = []
    row = start + 1  # the row before is that of the context's last token
    for part in task.tokens:
        follow = part[task.prefix + 1 :]
        pairs.append((np.arange(row, row + len(follow)), follow))
        row += len(follow)
    return pairs


def _winogrande_pairs(task: _Task, start: int) -> list[Pair]:
    """What follows the choice, without the last token; where too little does, the choice too.

    In that case the second choice's first logits are those of another token, as in
    llama-perplexity.
    """
    first, second = task.tokens
    skip = all(len(part) - task.prefix > _MIN_TRAILING for part in task.tokens)
    pairs = []
    for part, base, offset in (
        (first, task.bases[0], 0),
        (second, task.bases[1], len(first) - task.prefix),
    ):
        begin = base if skip else task.prefix
        end = len(part) - (1 if len(part) - begin > 1 else 0)
        follow = part[begin:end] if begin else part[:0]
        row = start + offset + begin - task.prefix
        pairs.append((np.arange(row, row + len(follow)), follow))
    return pairs


def _float_mean(values: npt.NDArray[np.float32], count: int) -> float:
    total = np.float32(0)
    for value in values:
        total += value
    return float(total / np.float32(count)) if count else float("nan")


def _with_first(
    own: Sequence[npt.NDArray[np.float32]],
    first: npt.NDArray[np.float32],
    task: _Task,
    kind: str,
) -> npt.NDArray[np.float64]:
    """The mean over all tokens of a continuation; HellaSwag adds in double, the others in float."""
    result = []
    with np.errstate(divide="ignore"):
        logarithms = np.log(first)
    for values, logarithm in zip(own, logarithms, strict=True):
        if kind == "hellaswag":
            result.append((float(logarithm) + sum(map(float, values))) / (len(values) + 1))
        else:
            total = logarithm
            for value in values:
                total += value
            result.append(float(total / np.float32(len(values) + 1)))
    return np.array(result)


def _best(scores: npt.NDArray[np.float64], kind: str) -> int:
    """The first of the best; of two equal ones in Winogrande, the second."""
    if kind == "winogrande":
        return 0 if scores[0] > scores[1] else 1
    return int(np.argmax(scores))
