"""What ``apex eval`` prints of its results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from apex.cli.output import Printer, Table, size

if TYPE_CHECKING:
    from apex.evaluation import Evaluator, Measured, ModelResult

__all__ = ["print_results"]


def print_results(evaluator: Evaluator, printer: Printer) -> None:
    """Tables of all that was measured, what to think of it, and notes."""
    results = evaluator.results
    if any(result.perplexity for result in results):
        _print_text(evaluator, printer)
    if any(result.mtp_agreement for result in results):
        _print_mtp(results, printer)
    if any(result.tasks for result in results):
        _print_tasks(results, printer)
    if any(result.harness for result in results):
        _print_harness(results, printer)
    if any(result.speed for result in results):
        _print_speed(results, printer)
    for text in evaluator.notes:
        printer.note(text)
    for result in results:
        if result.errors is not None:
            for text in result.errors.notes:
                printer.note(f"{result.name}: {text}")
    from apex.inference import peak_memory

    printer.line(f"{evaluator.seconds:.1f} s, peak memory {size(peak_memory())}")


def _pair(value: Measured, digits: int, factor: float = 1.0) -> str:
    return f"{factor * value.value:.{digits}f} ± {factor * value.error:.{digits}f}"


def _print_text(evaluator: Evaluator, printer: Printer) -> None:
    has_kl = any(result.divergence for result in evaluator.results)
    kl = ("KL mean", "same top %", "KL median", "99.9 %", "max", "Δp RMS %") if has_kl else ()
    numbers = ("size", "bpw", "PPL", *kl)
    count = evaluator.chunks
    heading = f"Over {count} chunk{'s' if count != 1 else ''} of the text"
    table = Table(heading, ("model", *numbers), numbers)
    for result in evaluator.results:
        cells = [_name(result), *_size(result)]
        cells.append("" if result.perplexity is None else _pair(result.perplexity.ppl, 4))
        divergence = result.divergence
        if has_kl and divergence is not None:
            at = divergence.kl_percentiles
            cells += [
                _pair(divergence.kl, 6),
                _pair(divergence.same_top, 3, 100),
                f"{at['median']:.6f}",
                f"{at['p99.9']:.4f}",
                f"{at['maximum']:.4f}",
                _pair(divergence.dp_rms, 3, 100),
            ]
        table.add(*cells, *([""] * (1 + len(numbers) - len(cells))))
    printer.table(table)
    if has_kl:
        _print_standing(evaluator.results, printer)


def _print_standing(results: Sequence[ModelResult], printer: Printer) -> None:
    """Whether that is good, in words."""
    from apex.reporting.standing import CAUTION, standing

    for result in results:
        if result.divergence is not None:
            kl, same_top = result.divergence.kl.value, result.divergence.same_top.value
            printer.paragraph(f"{result.name} is {standing(kl, same_top)}.")
    printer.paragraph(CAUTION)
    printer.line()


def _print_mtp(results: list[ModelResult], printer: Printer) -> None:
    numbers = ("agrees with the trunk %", "PPL of the head")
    table = Table("Multi-token-prediction head", ("model", *numbers), numbers)
    for result in results:
        if result.mtp_agreement is not None and result.mtp_perplexity is not None:
            table.add(
                _name(result),
                _pair(result.mtp_agreement, 3, 100),
                _pair(result.mtp_perplexity.ppl, 4),
            )
    printer.table(table)


def _print_tasks(results: list[ModelResult], printer: Printer) -> None:
    numbers = ("tasks", "accuracy %", "95 % interval", "guessing %")
    table = Table("Tasks", ("model", "task", *numbers), numbers, names=2)
    for result in results:
        for task in result.tasks:
            low, high = task.interval
            table.add(
                _name(result),
                f"{task.kind} ({task.name})",
                task.tasks,
                f"{100 * task.accuracy:.4f} ± {100 * task.error:.4f}",
                f"{100 * low:.2f} to {100 * high:.2f}",
                f"{100 * task.chance:.2f}",
            )
    printer.table(table)


def _print_harness(results: list[ModelResult], printer: Printer) -> None:
    numbers = ("documents", "shots", "value")
    table = Table(
        "Tasks of lm-evaluation-harness", ("model", "task", "metric", *numbers), numbers, names=2
    )
    for result in results:
        for score in result.harness:
            if score.part_of is None:
                error = "" if score.error is None else f" ± {score.error:.4f}"
                table.add(
                    _name(result),
                    score.task,
                    score.metric if score.filter == "none" else f"{score.metric}, {score.filter}",
                    score.samples,
                    "" if score.shots is None else score.shots,
                    f"{score.value:.4f}{error}",
                )
    printer.table(table)


def _print_speed(results: list[ModelResult], printer: Printer) -> None:
    measured = [result.speed for result in results if result.speed is not None]
    prompt, generated = measured[0].prompt_tokens, measured[0].generated_tokens
    numbers = ("size", "bpw", f"pp{prompt}", f"tg{generated}")
    table = Table("Speed, tokens per second", ("model", *numbers), numbers)
    for result in results:
        if result.speed is not None:
            speed = result.speed
            table.add(
                _name(result), *_size(result), _pair(speed.prompt, 2), _pair(speed.generation, 2)
            )
    printer.table(table)


def _size(result: ModelResult) -> Iterator[str]:
    yield size(result.file_bytes)
    yield f"{8 * result.file.bytes / max(result.file.weights, 1):.3f}"


def _name(result: ModelResult) -> str:
    return result.name + (" (reference)" if result.is_reference else "")
