"""``apex quantize``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from apex.cli.calibrating import (
    planned_matrix,
    print_calibration,
    showing_calibration,
    usable_matrix,
)
from apex.cli.converting import fetch
from apex.cli.output import Printer
from apex.cli.planning import print_plan
from apex.cli.progress import showing_progress
from apex.cli.quantize_arguments import QuantizeArguments
from apex.cli.stopping import ending
from apex.cli.targets import Wanted, leave_out_done, plan_all, wanted_of
from apex.cli.values import is_automatic, parse_devices
from apex.cli.verifying import compare, print_report, require_sound
from apex.cli.written import print_result, print_several, result_to_dict
from apex.sizes import parse_size

if TYPE_CHECKING:
    from apex import ModelFile, Plan, QuantizeResult, VerifyReport
    from apex.calibration import CollectOptions
    from apex.files import ImportanceMatrix
    from apex.sources import Model

__all__ = ["quantize"]


def quantize(given: QuantizeArguments) -> None:
    """Quantize a model, to one file or to several in one pass.

    Everything is checked before the first byte is written. With -o, files that are there and up to
    date are left as they are, and plain tiers are made without the importance matrix.
    """
    import apex
    from apex.gpu import choose_gpus
    from apex.quantizing import RunSettings, check_plan_outputs
    from apex.sources import open_source, require_file

    printer = Printer(quiet=given.quiet, json=given.json)
    settings = RunSettings(
        given.threads,
        parse_size(given.max_memory, "--max-memory"),
        given.overwrite,
        given.backend,
        parse_devices(given.device),
    )
    wanted = wanted_of(given)
    collect_options = given.collect_options()
    source = open_source(wanted.model)
    imatrix: Path | ImportanceMatrix | None = given.imatrix
    made: Path | None = None
    if given.dry_run or is_automatic(given.imatrix):  # before an importance matrix is made
        choose_gpus(settings.backend, settings.devices)
    if is_automatic(given.imatrix):
        imatrix, made = _automatic(given, wanted, require_file(source), collect_options, printer)
    left = "nothing was left behind" if made is None else f"{made} stays for the next time"
    with ending(left):
        outputs = _outputs(given, wanted, source, imatrix, printer)
    if given.dry_run:
        check_plan_outputs(list(outputs.values()), list(outputs), overwrite=given.overwrite)
        _show(outputs, source, printer)
        return
    fetch(source, printer)
    with ending(left), showing_progress("quantizing", printer) as advance:
        results = apex.quantize_all(
            outputs,
            settings,
            source=source,
            progress=lambda step: advance(step.done_bytes, step.total_bytes, step.tensor),
        )
    for text in results[0].notes if results else ():
        printer.note(text)
    _finish(given, wanted, source, results, imatrix, printer)


def _outputs(
    given: QuantizeArguments,
    wanted: Wanted,
    source: Model,
    imatrix: Path | ImportanceMatrix | None,
    printer: Printer,
) -> dict[Path, Plan]:
    """What is to be written; prints the plans' notes, and what is there already.

    A fit is measured, which takes minutes, after everything else was found to be right.
    """
    from apex.quantizing import check_plan_outputs

    outputs = plan_all(given, source, wanted, imatrix)
    if not given.dry_run and any(target.goal for target in wanted.targets):
        if wanted.folder is None or given.overwrite:
            check_plan_outputs(list(outputs.values()), list(outputs), overwrite=given.overwrite)
        source.require_data()
        outputs = plan_all(given, source, wanted, imatrix, printer)
    if wanted.folder is not None and not given.overwrite:
        outputs, done = leave_out_done(outputs)
        for path in done:
            printer.say(f"{path} is there and up to date")
    if not given.dry_run:
        _print_notes(outputs, printer)
    return outputs


def _print_notes(outputs: dict[Path, Plan], printer: Printer) -> None:
    """The plans' notes; one that several outputs share is printed once."""
    names: dict[str, list[str]] = {}
    for path, plan in outputs.items():
        for text in plan.notes:
            names.setdefault(text, []).append(path.name)
    for text, files in names.items():
        printer.note(text if len(files) == len(outputs) else f"{', '.join(files)}: {text}")


def _show(outputs: dict[Path, Plan], source: Model, printer: Printer) -> None:
    source.require_data()
    plans = list(outputs.values())
    printer.data(lambda: plans[0].to_dict() if len(plans) == 1 else [p.to_dict() for p in plans])
    for plan in plans:
        print_plan(plan, printer)


def _finish(
    given: QuantizeArguments,
    wanted: Wanted,
    source: Model,
    results: Sequence[QuantizeResult],
    imatrix: Path | ImportanceMatrix | None,
    printer: Printer,
) -> None:
    """Compare what was written with the model, if that is wanted, and show all of it."""
    path = imatrix if isinstance(imatrix, Path) else None
    reports: list[VerifyReport | None] = [None] * len(results)
    if given.verify:
        reports = [_verify(source, result, path, given, printer) for result in results]
    if wanted.folder is None:
        printer.data(lambda: result_to_dict(results[0], reports[0]))
        print_result(results[0], printer)
    else:
        printer.data(lambda: [result_to_dict(*pair) for pair in zip(results, reports, strict=True)])
        print_several(results, printer)
    for result, report in zip(results, reports, strict=True):
        if report is not None:
            printer.line()
            if wanted.folder is not None:
                printer.line(str(result.paths[0]))
            print_report(report, printer, tensors=False)
            require_sound(report, result.paths[0])


def _verify(
    model: Model,
    result: QuantizeResult,
    imatrix: Path | None,
    given: QuantizeArguments,
    printer: Printer,
) -> VerifyReport:
    used = imatrix if result.plan.imatrix is not None else None
    with ending(f"{result.paths[0]} is complete, but was not compared"):
        return compare(result.paths[0], model, used, given.second_moments, given.threads, printer)


def _automatic(
    given: QuantizeArguments,
    wanted: Wanted,
    model: ModelFile,
    collect_options: CollectOptions | None,
    printer: Printer,
) -> tuple[Path | ImportanceMatrix, Path | None]:
    """The importance matrix beside the model, and once more if it was made now.

    Everything else is checked before, with an importance matrix that has all there could be; where
    nothing is written, that one is enough.
    """
    from apex.calibration.automatic import calibrate_beside, expected_matrix
    from apex.quantizing import check_plan_outputs

    if given.dry_run:
        return planned_matrix(model, printer, collect_options), None
    found = usable_matrix(model, collect_options, printer)
    if found is not None:
        return found, None
    expected = expected_matrix(model)
    outputs = plan_all(given, model, wanted, expected)
    if wanted.folder is not None and not given.overwrite:
        outputs, _ = leave_out_done(outputs)
    model.require_data()
    check_plan_outputs(list(outputs.values()), list(outputs), overwrite=given.overwrite)
    printer.say(f"making {expected.path} from the built-in texts")
    with showing_calibration(printer) as progress:
        path, result = calibrate_beside(model, options=collect_options, progress=progress)
    if result is None:
        return path, None
    print_calibration(result, printer)
    return path, path
