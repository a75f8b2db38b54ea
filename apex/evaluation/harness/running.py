"""Runs tasks of lm-evaluation-harness."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from apex import _core
from apex.errors import ApexError, RunError, UsageError
from apex.evaluation.harness.chat import chat_template
from apex.evaluation.harness.loading import HarnessOptions, load, reason
from apex.evaluation.harness.scores import HarnessScore, scores_of
from apex.inference import RunOptions
from apex.sources import ModelFile

__all__ = ["Harness"]

# Drawn anew so often for the errors of what is not a mean; the harness's own 100000 take minutes.
_BOOTSTRAPS = 1000
_LOGGERS = ("lm_eval", "datasets", "evaluate", "huggingface_hub", "fsspec", "httpx")


class Harness:
    """Tasks that are loaded, data included.

    Raises UsageError where lm-evaluation-harness is not installed, does not know a task, cannot
    read its file, or has no data for it.
    """

    def __init__(self, options: HarnessOptions) -> None:
        if find_spec("lm_eval") is None:
            raise UsageError(
                "Tasks of lm-evaluation-harness need more Python packages.",
                "pip install 'apex-quant[harness]'",
            )
        self.options = options
        with _quietly(run_code=options.run_code):
            self._tasks = load(options)
        unsafe = [name for name, task in self._tasks["tasks"].items() if _runs_code(task)]
        if unsafe and not options.run_code:
            raise UsageError(
                f"The task {unsafe[0]} runs what the model writes.",
                "allow that with --harness-run-code, best in a container",
            )

    def run(
        self,
        file: ModelFile,
        model: _core.Model,
        options: RunOptions,
        progress: Callable[[str, int, int], None],
    ) -> tuple[list[HarnessScore], list[str]]:
        """All scores of a model, and notes. Raises RunError, and UsageError for a chat template.

        progress: called with what is done, how much of it, and of how much.
        """
        from lm_eval.evaluator import evaluate

        from apex.evaluation.harness.model import HarnessModel

        asked = self.options
        if asked.chat:
            chat_template(file)
        with _quietly(run_code=asked.run_code):
            harness_model = HarnessModel(file, model, options, asked.context, progress)
            try:
                self._prepare()
                results = evaluate(
                    harness_model,
                    self._tasks,
                    limit=asked.limit,
                    bootstrap_iters=_BOOTSTRAPS,
                    log_samples=False,
                    apply_chat_template=asked.chat,
                    fewshot_as_multiturn=asked.chat,
                    confirm_run_unsafe_code=asked.run_code,
                )
            except ApexError:
                raise
            except Exception as error:
                raise RunError(
                    f"lm-evaluation-harness failed with {file.path}: {reason(error)}.",
                    "does the task run with another model?",
                ) from error
        notes = []
        if harness_model.truncated:
            notes.append(
                f"{file.path.name}: {harness_model.truncated} requests were longer than "
                f"{harness_model.max_length} tokens, and lost their beginning"
            )
        return list(scores_of(results)), notes

    def to_dict(self) -> dict[str, Any]:
        """How the tasks are run, for JSON."""
        import lm_eval

        asked = asdict(self.options)
        folder = self.options.folder
        return {
            **asked,
            "tasks": [Path(name).name for name in self.options.tasks],
            "folder": None if folder is None else folder.name,
            "version": lm_eval.__version__,
        }

    def _prepare(self) -> None:
        """Examples and random numbers, as the harness's own command has them."""
        from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

        random.seed(DEFAULT_RANDOM_SEED)
        np.random.seed(DEFAULT_OTHER_SEED)
        for task in self._tasks["tasks"].values():
            own = task.get_config("num_fewshot")
            if own is None or (own and self.options.shots is not None):
                task.set_config(key="num_fewshot", value=self.options.shots or 0)
            task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)


def _runs_code(task: Any) -> bool:
    return bool(getattr(task, "UNSAFE_CODE", False))


@contextlib.contextmanager
def _quietly(*, run_code: bool) -> Iterator[None]:
    """While it lasts, the harness prints nothing, starts no processes, and may run code if allowed.

    Its own settings for that are environment variables.
    """
    from tqdm import tqdm

    before = {name: logging.getLogger(name).level for name in _LOGGERS}
    bars = tqdm.__init__
    wanted = {"DISABLE_MULTIPROC": "1", **({"HF_ALLOW_CODE_EVAL": "1"} if run_code else {})}
    had = {name: os.environ.get(name) for name in wanted}

    def without_bar(self: Any, *args: Any, **kwargs: Any) -> None:
        bars(self, *args, **{**kwargs, "disable": True})

    try:
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        tqdm.__init__ = without_bar
        os.environ.update(wanted)
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
        tqdm.__init__ = bars
        for name, value in had.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
