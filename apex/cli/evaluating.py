"""``apex eval``."""

from __future__ import annotations

import json as json_format
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from apex.cli import options, output, running
from apex.cli.progress import showing_stages

if TYPE_CHECKING:
    from apex.evaluation import EvalProgress, Evaluator, Measured, ModelResult

__all__ = ["evaluate"]

# Typer reads annotations at run time, where Python 3.10 does not know every form of "X | None".
# ruff: noqa: UP045

_TEXT, _TASKS, _SPEED, _OUT = "Text", "Tasks", "Speed", "Where and how"

_Files = Optional[list[Path]]


def evaluate(
    context: typer.Context,
    models: Annotated[
        _Files, typer.Argument(metavar="MODEL...", help="GGUF files; of shards, the first.")
    ] = None,
    reference: Annotated[
        Optional[Path],
        typer.Option(
            "--reference",
            "-r",
            metavar="MODEL",
            help="The model that the others are compared with, such as the F16 file.",
            rich_help_panel=_TEXT,
        ),
    ] = None,
    file: Annotated[
        Optional[Path],
        typer.Option(
            "--file",
            "-f",
            metavar="FILE",
            help="A text: perplexity, and with a reference KL divergence.",
            rich_help_panel=_TEXT,
        ),
    ] = None,
    chunks: Annotated[
        Optional[int],
        typer.Option(min=1, metavar="N", help="At most so many chunks.", rich_help_panel=_TEXT),
    ] = None,
    base: Annotated[
        Optional[Path],
        typer.Option(
            metavar="FILE",
            help="A base file of llama-perplexity instead of a reference model and a text.",
            rich_help_panel=_TEXT,
        ),
    ] = None,
    write_base: Annotated[
        Optional[Path],
        typer.Option(
            metavar="FILE", help="Write such a file of the reference.", rich_help_panel=_TEXT
        ),
    ] = None,
    mtp: Annotated[
        bool,
        typer.Option(
            "--mtp",
            help="Also run the multi-token-prediction head: how often it agrees with the trunk.",
            rich_help_panel=_TEXT,
        ),
    ] = False,
    hellaswag: Annotated[
        _Files, typer.Option(metavar="FILE", help="HellaSwag tasks.", rich_help_panel=_TASKS)
    ] = None,
    winogrande: Annotated[
        _Files, typer.Option(metavar="FILE", help="Winogrande tasks.", rich_help_panel=_TASKS)
    ] = None,
    multiple_choice: Annotated[
        _Files,
        typer.Option(
            metavar="FILE",
            help="Multiple choice: MMLU, ARC, TruthfulQA, … All as for llama-perplexity.",
            rich_help_panel=_TASKS,
        ),
    ] = None,
    tasks: Annotated[
        Optional[int],
        typer.Option(
            min=1,
            metavar="N",
            help="Draw so many of each; by default 400 of HellaSwag and all of the others.",
            rich_help_panel=_TASKS,
        ),
    ] = None,
    speed: Annotated[
        bool,
        typer.Option(
            "--speed",
            help="Prompt processing and generation, as llama-bench.",
            rich_help_panel=_SPEED,
        ),
    ] = False,
    n_prompt: Annotated[
        int,
        typer.Option("--n-prompt", min=1, metavar="N", rich_help_panel=_SPEED, help="Tokens."),
    ] = 512,
    n_gen: Annotated[
        int, typer.Option("--n-gen", min=1, metavar="N", rich_help_panel=_SPEED, help="Tokens.")
    ] = 128,
    repetitions: Annotated[
        int, typer.Option(min=1, metavar="N", rich_help_panel=_SPEED, help="Runs of each.")
    ] = 5,
    tensor_errors: Annotated[
        bool,
        typer.Option(
            "--tensor-errors",
            help="Compare every tensor with the reference's, for the report's map.",
            rich_help_panel=_OUT,
        ),
    ] = False,
    ctx_size: running.CtxSize = 512,
    batch_size: running.BatchSize = 2048,
    ubatch_size: running.MicroBatchSize = 512,
    cache_type_k: running.CacheTypeK = "f16",
    cache_type_v: running.CacheTypeV = "f16",
    gpu_layers: running.GpuLayers = "0",
    out: Annotated[
        Optional[Path],
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the results as JSON, for apex report.",
            rich_help_panel=_OUT,
        ),
    ] = None,
    no_hash: Annotated[
        bool,
        typer.Option("--no-hash", help="Leave out the files' SHA-256.", rich_help_panel=_OUT),
    ] = False,
    threads: options.Threads = 0,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure models: perplexity, KL divergence, tasks, speed.

    Models are compared with a reference chunk by chunk, both open: no logits file is needed.
    """
    from apex.evaluation import EvalOptions, Evaluator, SpeedOptions
    from apex.files import check_output

    task_files = (*(hellaswag or ()), *(winogrande or ()), *(multiple_choice or ()))
    evaluator = Evaluator(
        models or [],
        EvalOptions(
            run=running.run_options(context),
            text=file,
            chunks=chunks,
            tasks=[
                *(("hellaswag", path, tasks) for path in hellaswag or ()),
                *(("winogrande", path, tasks) for path in winogrande or ()),
                *(("multiple-choice", path, tasks) for path in multiple_choice or ()),
            ],
            speed=SpeedOptions(n_prompt, n_gen, repetitions) if speed else None,
            mtp=mtp,
            tensor_errors=tensor_errors,
            file_hash=not no_hash,
        ),
        reference=reference,
        base=base,
        write_base=write_base,
    )
    check_output(
        [path for path in (out, write_base) if path is not None],
        [
            *(shard for result in evaluator.results for shard in result.file.files),
            *(path for path in (file, base, *task_files) if path is not None),
        ],
        overwrite=overwrite,
    )
    interrupted = False
    try:
        with showing_stages(quiet) as stage:

            def report(step: EvalProgress) -> None:
                title = f"{step.stage}, {step.model}" if step.model else step.stage
                stage(title, step.done, step.total, step.estimate)

            evaluator.run(report)
    except KeyboardInterrupt:
        interrupted = True
    data = evaluator.to_dict()
    if out is not None:
        _write(out, data)
    if json:
        output.print_json(data)
    elif not quiet:
        _print(evaluator, out)
    if interrupted:
        output.say("interrupted; the numbers are of what was done until then")
        raise typer.Exit(130)


def _write(path: Path, data: dict[str, Any]) -> None:
    from apex.files import OutputSet

    with OutputSet([path]) as files:
        text = json_format.dumps(output.finite(data), indent=1, allow_nan=False)
        files.files[0].write(text.encode() + b"\n")
        files.commit()


def _print(evaluator: Evaluator, out: Path | None) -> None:
    results = evaluator.results
    if any(result.perplexity for result in results):
        _print_text(evaluator)
    if any(result.mtp_agreement for result in results):
        _print_mtp(results)
    if any(result.tasks for result in results):
        _print_tasks(results)
    if any(result.speed for result in results):
        _print_speed(results)
    for text in evaluator.notes:
        output.note(text)
    for result in results:
        if result.errors is not None:
            for text in result.errors.notes:
                output.note(f"{result.name}: {text}")
    from apex.inference import peak_memory

    console = output.stdout()
    console.print(f"{evaluator.seconds:.1f} s, peak memory {output.mib(peak_memory())} MiB")
    if out is not None:
        console.print(output.printable(f"wrote {out}"), soft_wrap=True)


def _pair(value: Measured, digits: int, factor: float = 1.0) -> str:
    return f"{factor * value.value:.{digits}f} ± {factor * value.error:.{digits}f}"


def _print_text(evaluator: Evaluator) -> None:
    has_kl = any(result.divergence for result in evaluator.results)
    kl = ("KL mean", "median", "99.9 %", "max", "same top %", "Δp RMS %") if has_kl else ()
    numbers = ("size", "bpw", "PPL", *kl)
    rows = output.table(f"Over {evaluator.chunks} chunks of the text", ("model", *numbers), numbers)
    for result in evaluator.results:
        cells = [_name(result), *_size(result)]
        cells.append("" if result.perplexity is None else _pair(result.perplexity.ppl, 4))
        divergence = result.divergence
        if has_kl and divergence is not None:
            at = divergence.kl_percentiles
            cells += [
                _pair(divergence.kl, 6),
                f"{at['median']:.6f}",
                f"{at['p99.9']:.4f}",
                f"{at['maximum']:.4f}",
                _pair(divergence.same_top, 3, 100),
                _pair(divergence.dp_rms, 3, 100),
            ]
        rows.add_row(*cells, *([""] * (1 + len(numbers) - len(cells))))
    output.print_table(rows)


def _print_mtp(results: list[ModelResult]) -> None:
    numbers = ("agrees with the trunk %", "PPL of the head")
    rows = output.table("Multi-token-prediction head", ("model", *numbers), numbers)
    for result in results:
        if result.mtp_agreement is not None and result.mtp_perplexity is not None:
            rows.add_row(
                _name(result),
                _pair(result.mtp_agreement, 3, 100),
                _pair(result.mtp_perplexity.ppl, 4),
            )
    output.print_table(rows)


def _print_tasks(results: list[ModelResult]) -> None:
    numbers = ("tasks", "accuracy %", "95 % interval", "guessing %")
    rows = output.table("Tasks", ("model", "task", *numbers), numbers)
    for result in results:
        for task in result.tasks:
            low, high = task.interval
            rows.add_row(
                _name(result),
                f"{task.kind} ({task.name})",
                task.tasks,
                f"{100 * task.accuracy:.4f} ± {100 * task.error:.4f}",
                f"{100 * low:.2f} to {100 * high:.2f}",
                f"{100 * task.chance:.2f}",
            )
    output.print_table(rows)


def _print_speed(results: list[ModelResult]) -> None:
    measured = [result.speed for result in results if result.speed is not None]
    prompt, generated = measured[0].prompt_tokens, measured[0].generated_tokens
    numbers = ("size", "bpw", f"pp{prompt}", f"tg{generated}")
    rows = output.table("Speed, tokens per second", ("model", *numbers), numbers)
    for result in results:
        if result.speed is not None:
            speed = result.speed
            rows.add_row(
                _name(result), *_size(result), _pair(speed.prompt, 2), _pair(speed.generation, 2)
            )
    output.print_table(rows)


def _size(result: ModelResult) -> Iterator[str]:
    size = result.file_bytes
    yield f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
    yield f"{8 * result.file.bytes / max(result.file.weights, 1):.3f}"


def _name(result: ModelResult) -> str:
    return result.name + (" (reference)" if result.is_reference else "")
