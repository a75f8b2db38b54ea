"""``apex quantize``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex.cli import output
from apex.cli.arguments import (
    FILES,
    JsonArgument,
    OverwriteArgument,
    PlanArguments,
    QuietArgument,
    ThreadsArgument,
)
from apex.cli.calibrating import planned_matrix, print_calibration, showing_calibration
from apex.cli.output import Printer
from apex.cli.planning import print_plan, print_roles
from apex.cli.progress import showing_progress
from apex.cli.stopping import ending
from apex.cli.values import is_automatic, parse_devices, parse_size

if TYPE_CHECKING:
    from apex import Plan, QuantizeResult
    from apex.planning import PlanOptions

__all__ = ["print_result", "quantize"]


@dataclass(frozen=True, kw_only=True)
class QuantizeArguments(
    QuietArgument, JsonArgument, OverwriteArgument, ThreadsArgument, PlanArguments
):
    """What ``apex quantize`` is given."""

    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")]
    max_memory: Annotated[
        str,
        typer.Option(
            metavar="SIZE",
            help="Bound on the memory in use, such as 2G or 500M (powers of 1024).",
            rich_help_panel=FILES,
        ),
    ] = "2G"
    backend: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda",
            help="auto takes the GPUs that are there. The bytes are the same.",
            rich_help_panel=FILES,
        ),
    ] = "auto"
    device: Annotated[
        str | None,
        typer.Option(
            metavar="N,…",
            help="Numbers of the GPUs to use; without it all.",
            rich_help_panel=FILES,
        ),
    ] = None
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check everything, show the plan, write nothing.",
            rich_help_panel=FILES,
        ),
    ] = False


def quantize(given: QuantizeArguments) -> None:
    """Quantize a model. Everything is checked before the first byte is written."""
    import apex
    from apex.gpu import choose_gpus

    printer = Printer(quiet=given.quiet, json=given.json)
    memory = parse_size(given.max_memory, "--max-memory")
    devices = parse_devices(given.device)
    choose_gpus(given.backend, devices)  # before an importance matrix is made
    wanted = given.plan_options()
    made: Path | None = None
    if is_automatic(given.imatrix):
        if given.dry_run:
            wanted["imatrix"] = planned_matrix(given.model, printer)
        else:
            wanted["imatrix"], made = _matrix_beside(given, wanted, printer)
    plan = apex.plan(given.model, **wanted)
    _check(plan, given, wanted)
    if given.dry_run:
        plan.model.require_data()
        printer.data(plan.to_dict)
        print_plan(plan, printer)
        return
    for text in plan.notes:
        printer.note(text)
    left = "nothing was left behind" if made is None else f"{made} stays for the next time"
    with ending(left), showing_progress("quantizing", printer) as advance:
        result = apex.quantize(
            plan,
            given.out,
            threads=given.threads,
            max_memory=memory,
            overwrite=given.overwrite,
            backend=given.backend,
            devices=devices,
            progress=lambda step: advance(step.done_bytes, step.total_bytes, step.tensor),
        )
    for text in result.notes:
        printer.note(text)
    printer.data(lambda: _to_dict(result))
    print_result(result, printer)


def _check(plan: Plan, given: QuantizeArguments, wanted: PlanOptions) -> None:
    """Raise OutputError unless the output can be written."""
    from apex.planning import files_read
    from apex.quantizing import check_plan_output, output_paths

    paths = output_paths(plan, given.out)
    check_plan_output(plan, paths, files_read(wanted), overwrite=given.overwrite)


def _matrix_beside(
    given: QuantizeArguments, wanted: PlanOptions, printer: Printer
) -> tuple[Path, Path | None]:
    """The importance matrix beside the model, and once more if it was made now.

    Everything else is checked before, with an importance matrix that has all there could be.
    """
    import apex
    from apex.calibration.automatic import calibrate_beside, expected_matrix, matrix_beside

    model = apex.open_model(given.model)
    found = matrix_beside(model)
    if found is not None:
        printer.say(f"using {found}, made of this model before")
        return found, None
    expected = expected_matrix(model)
    expecting = wanted.copy()
    expecting["imatrix"] = expected
    plan = apex.plan(model, **expecting)
    plan.model.require_data()
    _check(plan, given, expecting)
    printer.say(f"making {expected.path} from the built-in texts")
    with showing_calibration(printer) as progress:
        path, result = calibrate_beside(model, progress=progress)
    if result is None:
        return path, None
    print_calibration(result, printer)
    return path, path


def print_result(result: QuantizeResult, printer: Printer) -> None:
    """What was written, and where the time went."""
    plan, timings = result.plan, result.timings
    print_roles(plan, f"{plan.model.path.name} as {plan.tier or plan.file_type}", printer)
    for path in result.paths:
        printer.line(f"wrote {path}, {output.mib_and_gib(path.stat().st_size)}")
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
            f"{output.mib_and_gib(device.memory)} of its memory; slabs of "
            f"{output.mib_and_gib(result.slab_memory)} in this process"
        )


def _to_dict(result: QuantizeResult) -> dict[str, Any]:
    return {
        "plan": result.plan.to_dict(),
        "paths": [str(path) for path in result.paths],
        "bytes": result.bytes,
        "seconds": result.timings.to_dict(),
        "devices": [vars(device) for device in result.devices],
        "slab_memory": result.slab_memory,
        "notes": list(result.notes),
    }
