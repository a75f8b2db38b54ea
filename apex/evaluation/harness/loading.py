"""Which tasks of lm-evaluation-harness are run, and finding them with their data."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from apex.errors import UsageError

__all__ = ["HarnessOptions", "load", "reason"]


@dataclass(frozen=True)
class HarnessOptions:
    """Which tasks of lm-evaluation-harness are run, and how.

    Attributes:
        tasks: names of tasks, groups or tags, or paths of YAML files.
        folder: with YAML files of further tasks; None for none.
        limit: how many documents of each task at most, the first ones; None for all.
        shots: how many solved examples stand before each question; None for what the task says.
        context: how many tokens the model sees at most; None for what it was trained with.
        chat: write questions by the model's chat template.
        run_code: allow tasks that run what the model writes, such as HumanEval.
    """

    tasks: Sequence[str]
    folder: Path | None = None
    limit: int | None = None
    shots: int | None = None
    context: int | None = None
    chat: bool = False
    run_code: bool = False


def load(options: HarnessOptions) -> dict[str, Any]:
    """Tasks with their data, and groups of them, by name. Raises UsageError.

    The many tasks that come with the harness take seconds to list, and are left out where all that
    is asked for is the user's own.
    """
    from lm_eval.tasks import TaskManager

    folder = options.folder
    if folder is not None:
        _check_folder(folder)
    for name in options.tasks:
        if name.endswith((".yaml", ".yml")):
            _check_yaml(Path(name))
    manager = TaskManager(include_path=folder, include_defaults=False)
    if not all(name in manager.all_tasks or Path(name).is_file() for name in options.tasks):
        manager = TaskManager(include_path=folder)
    known = manager.all_tasks
    loaded: dict[str, Any] = {"tasks": {}, "groups": {}}
    for name in options.tasks:
        if name not in known and not Path(name).is_file():
            close = difflib.get_close_matches(name, known, 3)
            raise UsageError(
                f"lm-evaluation-harness does not have a task {name!r}.",
                f"did you mean {', '.join(close)}?"
                if close
                else "lm_eval ls tasks lists them; --harness-path FOLDER adds tasks of your own",
            )
        try:
            found = manager.load([name])
        except Exception as error:
            raise _load_error(name, error) from None
        for kind, those in loaded.items():
            those.update(found.get(kind) or {})
    return loaded


def _load_error(name: str, error: Exception) -> UsageError:
    if isinstance(error, ModuleNotFoundError):
        return UsageError(
            f"The task {name} needs the Python package {error.name}.", f"pip install {error.name}"
        )
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {"OSError", "DatasetNotFoundError", "HTTPError", "HfHubHTTPError"}:
        return UsageError(
            f"The data of the task {name} is not here and cannot be fetched: {reason(error)}.",
            "check the network and the name of the data set; what was fetched once is kept",
        )
    return UsageError(
        f"lm-evaluation-harness cannot load the task {name}: {reason(error)}.",
        "check its YAML file",
    )


def reason(error: Exception) -> str:
    """The first line of what an error says, without a full stop."""
    lines = str(error).strip().strip("'\"").splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(". ")


def _check_folder(folder: Path) -> None:
    """Raise UsageError unless it holds tasks; the harness skips files that it cannot read."""
    files = sorted(folder.rglob("*.yaml"))
    if not files:
        raise UsageError(
            f"{folder} does not hold tasks.",
            "give a folder with YAML files of lm-evaluation-harness",
        )
    for file in files:
        _check_yaml(file)


def _check_yaml(file: Path) -> None:
    class Loader(yaml.SafeLoader):
        """Knows the harness's tags, such as !function, by name only."""

    Loader.add_multi_constructor("!", lambda loader, tag, node: None)
    try:
        content = yaml.load(file.read_bytes(), Loader)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.", "check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}"
        what = getattr(error, "problem", None) or reason(error)
        raise UsageError(f"{file} is not valid YAML{where}: {what}.", "correct it") from None
    if not isinstance(content, dict):
        raise UsageError(f"{file} is not a task of lm-evaluation-harness.", "it lacks task: NAME")
