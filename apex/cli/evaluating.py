"""``apex eval``."""

from __future__ import annotations

import json as json_format
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex.cli import output
from apex.cli.arguments import FILES, JsonArgument, OverwriteArgument, QuietArgument
from apex.cli.harness_arguments import HarnessArguments
from apex.cli.measurements import print_results
from apex.cli.output import Printer
from apex.cli.progress import showing_stages
from apex.cli.running import RunArguments
from apex.cli.stopping import STOPS, Stopped

if TYPE_CHECKING:
    from apex.evaluation import EvalProgress, Evaluator

__all__ = ["evaluate"]

_TEXT, _TASKS, _SPEED = "Text", "Tasks", "Speed"


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments(
    QuietArgument, JsonArgument, OverwriteArgument, RunArguments, HarnessArguments
):
    """What ``apex eval`` is given."""

    models: Annotated[
        list[Path] | None,
        typer.Argument(metavar="MODEL...", help="GGUF files; of shards, the first."),
    ] = None
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            "-r",
            metavar="MODEL",
            help="The model that the others are compared with, such as the F16 file.",
            rich_help_panel=_TEXT,
        ),
    ] = None
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE",
            help="A text to measure perplexity on, and KL divergence where there is a reference.",
            rich_help_panel=_TEXT,
        ),
    ] = None
    chunks: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Run at most N chunks.", rich_help_panel=_TEXT),
    ] = None
    base: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A base file of llama-perplexity instead of a reference model and a text.",
            rich_help_panel=_TEXT,
        ),
    ] = None
    write_base: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the reference's log-probabilities as a base file of llama-perplexity.",
            rich_help_panel=_TEXT,
        ),
    ] = None
    mtp: Annotated[
        bool,
        typer.Option(
            "--mtp",
            help="Also measure how often the multi-token-prediction head agrees with the trunk.",
            rich_help_panel=_TEXT,
        ),
    ] = False
    hellaswag: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A file of HellaSwag tasks, as for llama-perplexity.",
            rich_help_panel=_TASKS,
        ),
    ] = None
    winogrande: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A file of Winogrande tasks, as for llama-perplexity.",
            rich_help_panel=_TASKS,
        ),
    ] = None
    multiple_choice: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A file of multiple-choice tasks (MMLU, ARC, …), as for llama-perplexity.",
            rich_help_panel=_TASKS,
        ),
    ] = None
    tasks: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Draw N tasks of each file; by default 400 of HellaSwag and all of the others.",
            rich_help_panel=_TASKS,
        ),
    ] = None
    speed: Annotated[
        bool,
        typer.Option(
            "--speed",
            help="Measure prompt processing and generation, as llama-bench does.",
            rich_help_panel=_SPEED,
        ),
    ] = False
    n_prompt: Annotated[
        int,
        typer.Option(
            "--n-prompt", min=1, metavar="N", rich_help_panel=_SPEED, help="Tokens of the prompt."
        ),
    ] = 512
    n_gen: Annotated[
        int,
        typer.Option(
            "--n-gen", min=1, metavar="N", rich_help_panel=_SPEED, help="Tokens to generate."
        ),
    ] = 128
    repetitions: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", rich_help_panel=_SPEED, help="Repetitions of each measurement."
        ),
    ] = 5
    tensor_errors: Annotated[
        bool,
        typer.Option(
            "--tensor-errors",
            help="Compare every tensor with the reference's, for the report's map.",
            rich_help_panel=FILES,
        ),
    ] = False
    out: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the results as JSON, for apex report.",
            rich_help_panel=FILES,
        ),
    ] = None
    no_hash: Annotated[
        bool,
        typer.Option("--no-hash", help="Leave out the files' SHA-256.", rich_help_panel=FILES),
    ] = False

    def task_files(self) -> tuple[tuple[str, Path], ...]:
        """The kind and the file of all tasks."""
        kinds = {
            "hellaswag": self.hellaswag,
            "winogrande": self.winogrande,
            "multiple-choice": self.multiple_choice,
        }
        return tuple((kind, path) for kind, paths in kinds.items() for path in paths or ())


def evaluate(given: EvaluateArguments) -> None:
    """Measure models: perplexity, KL divergence, tasks, speed.

    The reference and the models are open together, so no file of logits is needed.
    """
    from apex.evaluation import EvalOptions, Evaluator, SpeedOptions

    printer = Printer(quiet=given.quiet, json=given.json)
    speed = SpeedOptions(given.n_prompt, given.n_gen, given.repetitions) if given.speed else None
    evaluator = Evaluator(
        given.models or [],
        EvalOptions(
            run=given.run_options(),
            text=given.file,
            chunks=given.chunks,
            tasks=[(kind, path, given.tasks) for kind, path in given.task_files()],
            harness=given.harness_options(),
            speed=speed,
            mtp=given.mtp,
            tensor_errors=given.tensor_errors,
            file_hash=not given.no_hash,
        ),
        reference=given.reference,
        base=given.base,
        write_base=given.write_base,
    )
    _check_outputs(given, evaluator)
    stop: BaseException | None = None
    try:
        with showing_stages(printer) as stage:

            def report(step: EvalProgress) -> None:
                title = f"{step.stage}, {step.model}" if step.model else step.stage
                stage(title, step.done, step.total, step.estimate)

            evaluator.run(report)
    except STOPS as error:
        stop = error
    if given.out is not None:
        _write(given.out, evaluator.to_dict())
    printer.data(evaluator.to_dict)
    print_results(evaluator, printer)
    if given.out is not None:
        printer.line(f"wrote {given.out}")
    if stop is not None:
        raise Stopped(stop, "the numbers are of what was done until then")


def _check_outputs(given: EvaluateArguments, evaluator: Evaluator) -> None:
    """Raise OutputError unless the files can be written; none may be one that is read."""
    from apex.files import check_output

    outputs = [path for path in (given.out, given.write_base) if path is not None]
    check_output(outputs, evaluator.inputs, overwrite=given.overwrite)


def _write(path: Path, data: dict[str, Any]) -> None:
    from apex.files import OutputSet

    with OutputSet([path]) as files:
        text = json_format.dumps(output.finite(data), indent=1, allow_nan=False)
        files.files[0].write(text.encode() + b"\n")
        files.commit()
