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
from apex.cli.calibrating import (
    planned_matrix,
    print_calibration,
    showing_calibration,
    usable_matrix,
)
from apex.cli.output import Printer
from apex.cli.planning import print_plan, print_roles
from apex.cli.progress import showing_progress
from apex.cli.stopping import ending
from apex.cli.values import is_automatic, parse_devices, parse_layers, parse_size
from apex.cli.verifying import compare, print_report, require_sound
from apex.errors import UsageError

if TYPE_CHECKING:
    from apex import QuantizeResult, VerifyReport
    from apex.calibration import CollectOptions
    from apex.planning import PlanOptions

__all__ = ["print_result", "quantize"]

_AUTO = "Making an importance matrix, with --imatrix auto"


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
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Compare what was written with the model, as apex verify does.",
            rich_help_panel=FILES,
        ),
    ] = False
    chunks: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Run at most N chunks of the built-in texts.",
            rich_help_panel=_AUTO,
        ),
    ] = None
    ctx_size: Annotated[
        int | None,
        typer.Option(
            "--ctx-size",
            "-c",
            min=4,
            metavar="N",
            help="Tokens of a chunk; 512 by default.",
            rich_help_panel=_AUTO,
        ),
    ] = None
    gpu_layers: Annotated[
        str | None,
        typer.Option(
            "--gpu-layers",
            "-ngl",
            metavar="N|all",
            help="Layers that run on GPUs, counted from the output; none by default.",
            rich_help_panel=_AUTO,
        ),
    ] = None

    def collect_options(self) -> CollectOptions | None:
        """How an importance matrix is made; None for the defaults. Raises UsageError."""
        given = (self.chunks, self.ctx_size, self.gpu_layers)
        if all(value is None for value in given):
            return None
        if not is_automatic(self.imatrix):
            raise UsageError(
                "--chunks, --ctx-size and --gpu-layers are for making an importance matrix.",
                "add --imatrix auto",
            )
        from apex.calibration import CollectOptions
        from apex.inference import RunOptions

        run = RunOptions(
            context_length=self.ctx_size or RunOptions.context_length,
            gpu_layers=parse_layers(self.gpu_layers or "0"),
        )
        return CollectOptions(run=run, chunks=self.chunks)


def quantize(given: QuantizeArguments) -> None:
    """Quantize a model. Everything is checked before the first byte is written."""
    import apex
    from apex.gpu import choose_gpus
    from apex.quantizing import check_plan_outputs

    printer = Printer(quiet=given.quiet, json=given.json)
    memory = parse_size(given.max_memory, "--max-memory")
    devices = parse_devices(given.device)
    choose_gpus(given.backend, devices)  # before an importance matrix is made
    wanted = given.plan_options()
    collect_options = given.collect_options()
    made: Path | None = None
    if is_automatic(given.imatrix):
        if given.dry_run:
            wanted["imatrix"] = planned_matrix(given.model, printer, collect_options)
        else:
            wanted["imatrix"], made = _matrix_beside(given, wanted, collect_options, printer)
    source = apex.open_model(given.model)
    plan = apex.plan(source, **wanted)
    check_plan_outputs([plan], [given.out], overwrite=given.overwrite)
    if given.dry_run:
        source.require_data()
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
            source=source,
            progress=lambda step: advance(step.done_bytes, step.total_bytes, step.tensor),
        )
    for text in result.notes:
        printer.note(text)
    report = _verify(given, result, wanted, printer) if given.verify else None
    printer.data(lambda: _to_dict(result, report))
    print_result(result, printer)
    if report is not None:
        printer.line()
        print_report(report, printer, tensors=False)
        require_sound(report, result.paths[0])


def _verify(
    given: QuantizeArguments, result: QuantizeResult, wanted: PlanOptions, printer: Printer
) -> VerifyReport:
    imatrix = wanted["imatrix"]
    path = Path(imatrix) if isinstance(imatrix, (str, Path)) else None
    with ending(f"{result.paths[0]} is complete, but was not compared"):
        return compare(result.paths[0], given.model, path, given.threads, printer)


def _matrix_beside(
    given: QuantizeArguments,
    wanted: PlanOptions,
    collect_options: CollectOptions | None,
    printer: Printer,
) -> tuple[Path, Path | None]:
    """The importance matrix beside the model, and once more if it was made now.

    Everything else is checked before, with an importance matrix that has all there could be.
    """
    import apex
    from apex.calibration.automatic import calibrate_beside, expected_matrix
    from apex.quantizing import check_plan_outputs

    model = apex.open_model(given.model)
    found = usable_matrix(model, collect_options, printer)
    if found is not None:
        return found, None
    expected = expected_matrix(model)
    expecting = wanted.copy()
    expecting["imatrix"] = expected
    plan = apex.plan(model, **expecting)
    model.require_data()
    check_plan_outputs([plan], [given.out], overwrite=given.overwrite)
    printer.say(f"making {expected.path} from the built-in texts")
    with showing_calibration(printer) as progress:
        path, result = calibrate_beside(model, options=collect_options, progress=progress)
    if result is None:
        return path, None
    print_calibration(result, printer)
    return path, path


def print_result(result: QuantizeResult, printer: Printer) -> None:
    """What was written, and where the time went."""
    plan, timings = result.plan, result.timings
    print_roles(plan, f"{plan.model.path.name} as {plan.tier or plan.file_type}", printer)
    for path in result.paths:
        printer.line(f"wrote {path}, {output.size(path.stat().st_size)}")
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


def _to_dict(result: QuantizeResult, report: VerifyReport | None) -> dict[str, Any]:
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
