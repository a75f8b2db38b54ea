"""Arguments about tasks of lm-evaluation-harness."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apex.errors import UsageError

if TYPE_CHECKING:
    from apex.evaluation import HarnessOptions

__all__ = ["HarnessArguments"]

_HARNESS = "Tasks of lm-evaluation-harness"


@dataclass(frozen=True, kw_only=True)
class HarnessArguments:
    """Which tasks of lm-evaluation-harness are run, and how."""

    harness: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK[,TASK...]",
            help="Names of tasks, such as gsm8k,ifeval, or YAML files of your own. Repeatable; it "
            "needs pip install 'apex-quant[harness]'.",
            rich_help_panel=_HARNESS,
        ),
    ] = None
    harness_path: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="A folder with YAML files of further tasks.",
            rich_help_panel=_HARNESS,
        ),
    ] = None
    harness_limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Take only the first N documents of each task.",
            rich_help_panel=_HARNESS,
        ),
    ] = None
    harness_shots: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Put N solved examples before each question, instead of what the task says.",
            rich_help_panel=_HARNESS,
        ),
    ] = None
    harness_context: Annotated[
        int | None,
        typer.Option(
            min=16,
            metavar="N",
            help="Let the model see at most N tokens, instead of what it was trained with.",
            rich_help_panel=_HARNESS,
        ),
    ] = None
    harness_chat: Annotated[
        bool,
        typer.Option(
            "--harness-chat",
            help="Write the questions by the model's chat template.",
            rich_help_panel=_HARNESS,
        ),
    ] = False
    harness_run_code: Annotated[
        bool,
        typer.Option(
            "--harness-run-code",
            help="Allow tasks that run what the model writes, such as humaneval.",
            rich_help_panel=_HARNESS,
        ),
    ] = False

    def harness_options(self) -> HarnessOptions | None:
        """These, as ``apex.evaluation`` takes them; None without a task. Raises UsageError."""
        from apex.evaluation import HarnessOptions

        names = [name.strip() for given in self.harness or () for name in given.split(",")]
        if not any(names):
            if self.harness_path is not None:
                raise UsageError("No task of the folder is named.", "name some with --harness")
            return None
        return HarnessOptions(
            tasks=[name for name in names if name],
            folder=self.harness_path,
            limit=self.harness_limit,
            shots=self.harness_shots,
            context=self.harness_context,
            chat=self.harness_chat,
            run_code=self.harness_run_code,
        )
