"""What ``apex quantize`` says about the files that it wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from apex.cli import output
from apex.cli.output import Printer, Table
from apex.cli.planning import print_roles, rounding_words

if TYPE_CHECKING:
    from apex import QuantizeResult, VerifyReport

__all__ = ["print_result", "print_several", "result_to_dict"]


def print_result(result: QuantizeResult, printer: Printer) -> None:
    """What was written, and where the time went."""
    plan = result.plan
    title = f"{plan.model.path.name} as {plan.tier or plan.file_type}{rounding_words(plan)}"
    print_roles(plan, title, printer)
    for path in result.paths:
        printer.line(f"wrote {path}, {output.size(path.stat().st_size)}")
    _print_run(result, printer)


def print_several(results: Sequence[QuantizeResult], printer: Printer) -> None:
    """A line per output of one pass, and where the time went."""
    if not results:
        return
    model = results[0].plan.model
    numbers = ("size", "bits/weight", "fallbacks")
    title = f"{model.name}, {output.size(model.bytes)}, in one pass"
    table = Table(title, ("file", "made as", *numbers), numbers)
    for result in results:
        plan = result.plan
        shards = f" and {len(result.paths) - 1} more" if len(result.paths) > 1 else ""
        table.add(
            f"{result.paths[0].name}{shards}",
            f"{plan.tier or plan.file_type}{rounding_words(plan)}",
            output.size(result.bytes),
            f"{plan.bits_per_weight:.2f}",
            len(plan.fallbacks),
        )
    printer.table(table)
    _print_run(results[0], printer)


def _print_run(result: QuantizeResult, printer: Printer) -> None:
    """Where the time of a run went, and what its GPUs did."""
    plan, timings = result.plan, result.timings
    speed = plan.model.bytes / max(timings.total, 1e-9) / 1e6
    stages = {"reading": timings.reading, "quantizing": timings.quantizing}
    if result.devices:
        stages = {
            "preparing": timings.preparing,
            "reading": timings.reading,
            "copying to the GPU": timings.copying_in,
            "its kernels": timings.computing,
            "copying back": timings.copying_out,
            "the processor": timings.quantizing,
        }
    stages["writing"] = timings.writing
    busy = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in stages.items())
    printer.line(
        f"{timings.total:.1f} s, {speed:.0f} MB/s of the source; stages that overlap: {busy}; "
        f"then syncing {timings.syncing:.1f} s"
    )
    for device in result.devices:
        share = 100 * device.bytes / max(plan.model.bytes, 1)
        printer.line(
            f"GPU {device.index}, {device.name}: {share:.0f} % of the source, "
            f"{output.size(device.memory)} of its memory; slabs of "
            f"{output.size(result.slab_memory)} in this process"
        )


def result_to_dict(result: QuantizeResult, report: VerifyReport | None) -> dict[str, Any]:
    """A result as data for JSON."""
    return {
        "plan": result.plan.to_dict(),
        "paths": [str(path) for path in result.paths],
        "bytes": result.bytes,
        "seconds": result.timings.to_dict(),
        "devices": [vars(device) for device in result.devices],
        "slab_memory": result.slab_memory,
        "notes": list(result.notes),
        "verification": None if report is None else report.to_dict(),
    }
