"""``apex quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex.cli import options, output
from apex.cli.calibrating import planned_matrix, print_calibration, showing_calibration
from apex.cli.planning import print_plan, print_roles
from apex.cli.progress import showing_progress

if TYPE_CHECKING:
    from apex import QuantizeResult
    from apex.planning import PlanOptions

__all__ = ["print_result", "quantize"]


def quantize(
    context: typer.Context,
    model: options.Model,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")],
    tier: options.Tier = None,
    file_type: options.FileType = None,
    imatrix: options.Imatrix = None,
    edge_layers: options.EdgeLayers = None,
    near_layers: options.NearLayers = None,
    strict: options.Strict = False,
    tensor_type: options.TensorType = None,
    tensor_type_file: options.TensorTypeFile = None,
    output_tensor_type: options.OutputTensorType = None,
    token_embedding_type: options.TokenEmbeddingType = None,
    pure: options.Pure = False,
    leave_output_tensor: options.LeaveOutputTensor = False,
    allow_requantize: options.AllowRequantize = False,
    override_kv: options.OverrideKv = None,
    keep_split: options.KeepSplit = False,
    split_max_size: options.SplitMaxSize = None,
    threads: options.Threads = 0,
    max_memory: options.MaxMemory = "2G",
    backend: options.Backend = "auto",
    device: options.Device = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Quantize a model. Everything is checked before the first byte is written."""
    import apex
    from apex.gpu import choose_gpus
    from apex.planning import files_read
    from apex.quantizing import check_plan_output, output_paths

    memory = options.parse_size(max_memory, "--max-memory")
    devices = options.parse_devices(device)
    choose_gpus(backend, devices)  # before an importance matrix is made
    wanted = options.plan_options(context)
    if options.is_automatic(imatrix):
        wanted["imatrix"] = (
            planned_matrix(model)
            if dry_run
            else _matrix_beside(model, wanted, out, overwrite, quiet)
        )
    todo = apex.plan(model, **wanted)
    check_plan_output(todo, output_paths(todo, out), files_read(wanted), overwrite=overwrite)
    if dry_run:
        todo.model.require_data()
        if json:
            output.print_json(todo.to_dict())
        elif not quiet:
            print_plan(todo)
        return
    if not quiet:
        for text in todo.notes:
            output.note(text)
    with showing_progress("quantizing", quiet) as advance:
        result = apex.quantize(
            todo,
            out,
            threads=threads,
            max_memory=memory,
            overwrite=overwrite,
            backend=backend,
            devices=devices,
            progress=lambda step: advance(step.done_bytes, step.total_bytes, step.tensor),
        )
    if not quiet:
        for text in result.notes:
            output.note(text)
    if json:
        output.print_json(_to_dict(result))
    elif not quiet:
        print_result(result)


def _matrix_beside(
    path: Path, wanted: PlanOptions, out: Path, overwrite: bool, quiet: bool
) -> Path:
    """The importance matrix beside the model, made now if it is not there.

    Everything else is checked before, with an importance matrix that has all there could be.
    """
    import apex
    from apex.calibration.automatic import calibrate_beside, expected_matrix, matrix_beside
    from apex.planning import files_read
    from apex.quantizing import check_plan_output, output_paths

    model = apex.open_model(path)
    found = matrix_beside(model)
    if found is not None:
        output.say(f"using {found}, made of this model before")
        return found
    expected = expected_matrix(model)
    expecting = wanted.copy()
    expecting["imatrix"] = expected
    todo = apex.plan(model, **expecting)
    todo.model.require_data()
    check_plan_output(todo, output_paths(todo, out), files_read(expecting), overwrite=overwrite)
    if not quiet:
        output.say(f"making {expected.path} from the built-in texts")
    with showing_calibration(quiet) as progress:
        made, result = calibrate_beside(model, progress=progress)
    if result is not None and not quiet:
        print_calibration(result)
    return made


def print_result(result: QuantizeResult) -> None:
    """What was written, and where the time went."""
    todo, timings = result.plan, result.timings
    print_roles(todo, f"{todo.model.path.name} as {todo.tier or todo.file_type}")
    console = output.stdout()
    for path in result.paths:
        text = f"wrote {path}, {output.mib_and_gib(path.stat().st_size)}"
        console.print(output.printable(text), soft_wrap=True)
    speed = todo.model.bytes / max(timings.total, 1e-9) / 1e6
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
    console.print(
        f"{timings.total:.1f} s, {speed:.0f} MB/s of the source; busy side by side: {busy}; "
        f"then syncing {timings.syncing:.1f} s"
    )
    for device in result.devices:
        share = 100 * device.bytes / max(todo.model.bytes, 1)
        console.print(
            f"GPU {device.index}, {output.printable(device.name)}: {share:.0f} % of the source, "
            f"{output.mib_and_gib(device.memory)} of its memory; slabs of "
            f"{output.mib_and_gib(result.slab_memory)} in this process",
            soft_wrap=True,
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
