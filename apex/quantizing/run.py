"""Carries plans out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from apex.cpu import cpu_info
from apex.errors import ImatrixError, UsageError
from apex.files import ImportanceMatrix, SecondMoments, load_imatrix, load_second_moments
from apex.planning import Plan, PlanOptions, build_header, plan
from apex.quantizing.copying import copy_files
from apex.quantizing.jobs import work_of
from apex.quantizing.outputs import check_plan_outputs
from apex.quantizing.result import Progress, QuantizeResult, Timings
from apex.quantizing.settings import DEFAULT_MAX_MEMORY, RunSettings
from apex.quantizing.setup import Setup, set_up
from apex.quantizing.sinks import ErrorSink, FileSink, MeasuredError, Outputs, Sink
from apex.quantizing.workers import Gpu, Importances, Objectives
from apex.sources import Source, check_same, open_source

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["measure_errors", "measure_errors_of", "quantize", "quantize_all"]

OnProgress = Callable[[Progress], None] | None


def quantize(
    model: str | os.PathLike[str] | Source | Plan,
    output: str | os.PathLike[str],
    *,
    threads: int = 0,
    max_memory: int = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    backend: str = "auto",
    devices: Sequence[int] | None = None,
    source: Source | None = None,
    progress: OnProgress = None,
    **options: Unpack[PlanOptions],
) -> QuantizeResult:
    """Quantize a model, or carry out a plan that was made before.

    model: a GGUF file (of shards, the first), a Hugging Face folder, a ``Source``, or a Plan.
    output: the file to write. Shards get its name with -00001-of-000NN.
    threads, max_memory, overwrite, backend, devices: as in ``RunSettings``.
    source: the source of a Plan, where it is at hand or cannot be found by the plan alone.
    progress: called after every slab, from this thread.
    options: those of ``PlanOptions``; none with a Plan.

    Everything that can be checked is checked before the first byte is written. The output appears
    under its name when it is complete and on the disk; whatever goes wrong before leaves nothing.
    Raises ApexError of the kind that fits; KeyboardInterrupt passes through.
    """
    started = time.perf_counter()
    settings = RunSettings(threads, max_memory, overwrite, backend, devices)
    if isinstance(model, Plan):
        if options:
            raise TypeError("a plan is complete; options go to plan()")
        made = model
    else:
        source = open_source(model) if isinstance(model, (str, os.PathLike)) else model
        made = plan(source, **options)
    given = options.get("imatrix")
    matrices = [given] if isinstance(given, ImportanceMatrix) else []
    (result,) = _quantize({Path(output): made}, settings, source, matrices, progress, started)
    return result


def quantize_all(
    outputs: Mapping[Path, Plan] | Mapping[str, Plan],
    settings: RunSettings | None = None,
    *,
    source: Source | None = None,
    progress: OnProgress = None,
) -> tuple[QuantizeResult, ...]:
    """Carry out several plans of one source in one pass over it.

    outputs: by the name of every file to write, its plan. Each has the bytes of a run of its own.
    They appear under their names one after the other at the end; nothing is left of those that did
    not.
    Returns the results in the same order. Raises as ``quantize`` does, and UsageError for plans of
    different sources.
    """
    started = time.perf_counter()
    named = {Path(output): planned for output, planned in outputs.items()}
    return _quantize(named, settings or RunSettings(), source, [], progress, started)


def measure_errors(
    planned: Plan,
    settings: RunSettings | None = None,
    *,
    source: Source | None = None,
    progress: OnProgress = None,
) -> dict[str, MeasuredError]:
    """Quantize as planned, keep no byte of it, and return every tensor's error by its name."""
    (errors,) = measure_errors_of([planned], settings, source=source, progress=progress)
    return errors


def measure_errors_of(
    plans: Sequence[Plan],
    settings: RunSettings | None = None,
    *,
    source: Source | None = None,
    progress: OnProgress = None,
) -> tuple[dict[str, MeasuredError], ...]:
    """What ``measure_errors`` gives of each of several plans of one source, in one pass over it."""
    settings = settings or RunSettings()
    source = _checked_source(plans, source)
    timings = Timings()
    importances, moments = Importances(_matrices(plans, [])), _second_moments(plans)
    outputs = Outputs(moments, settings.threads)
    sinks = [ErrorSink(importances, outputs, number) for number in range(len(plans))]
    objectives = Objectives(moments, settings.threads)
    setup = set_up(source, plans, work_of(plans), settings, timings, importances, objectives)
    setup.stream.run(sinks, progress)
    return tuple(sink.errors for sink in sinks)


def _quantize(
    outputs: Mapping[Path, Plan],
    settings: RunSettings,
    source: Source | None,
    matrices: Sequence[ImportanceMatrix],
    progress: OnProgress,
    started: float,
) -> tuple[QuantizeResult, ...]:
    plans = list(outputs.values())
    if not plans:
        return ()
    source = _checked_source(plans, source)
    paths = check_plan_outputs(plans, list(outputs), overwrite=settings.overwrite)
    timings = Timings()
    streamed = [pair for pair in zip(plans, paths, strict=True) if not pair[0].is_verbatim]
    setup = None
    if streamed:
        setup = _stream(streamed, settings, source, matrices, timings, progress)
    for planned, names in zip(plans, paths, strict=True):
        if planned.is_verbatim:
            copy_files(planned, names, timings)
    return _results(plans, paths, timings, started, setup)


def _stream(
    outputs: Sequence[tuple[Plan, tuple[Path, ...]]],
    settings: RunSettings,
    source: Source,
    matrices: Sequence[ImportanceMatrix],
    timings: Timings,
    progress: OnProgress,
) -> Setup:
    """Quantize in one pass; returns what took part."""
    plans = [planned for planned, _ in outputs]
    sinks = [
        FileSink(
            planned,
            [build_header(source, planned, index) for index in range(len(planned.files))],
            names,
        )
        for planned, names in outputs
    ]
    importances = Importances(_matrices(plans, matrices))
    objectives = Objectives(_second_moments(plans), settings.threads)
    with timings.measure("preparing"):
        setup = set_up(source, plans, work_of(plans), settings, timings, importances, objectives)
    _write(setup, sinks, timings, progress)
    return setup


def _write(setup: Setup, sinks: Sequence[Sink], timings: Timings, progress: OnProgress) -> None:
    with ExitStack() as stack:
        for sink in sinks:
            stack.callback(sink.abandon)  # first, since an interrupt may come right after opening
            sink.open()
        setup.stream.run(sinks, progress)
        with timings.measure("syncing"):
            for sink in sinks:
                sink.commit()


def _checked_source(plans: Sequence[Plan], source: Source | None) -> Source:
    """The source of all plans, with all its data, and nothing in the way of carrying them out."""
    if any(planned.is_sizes_only for planned in plans):
        raise UsageError("A plan for sizes only cannot be carried out.", "plan without sizes_only")
    first = plans[0].model
    if any(planned.model.digest != first.digest for planned in plans):
        raise UsageError(
            "The plans are for different models.", "make all plans of one run from one model"
        )
    cpu_info()  # an APEX_ISA that cannot be had is an error before anything is written
    if source is None:
        source = open_source(first)
    else:
        check_same(source, first)
    source.require_data()
    return source


def _matrices(
    plans: Sequence[Plan], known: Sequence[ImportanceMatrix]
) -> dict[int, ImportanceMatrix]:
    """The importance matrices by the numbers of the plans, each opened once."""
    found = {(matrix.path, matrix.digest): matrix for matrix in known}
    result = {}
    for number, planned in enumerate(plans):
        reference = planned.imatrix
        if reference is None:
            continue
        key = (reference.path, reference.digest)
        if key not in found:
            found[key] = load_imatrix(reference.path)
            if found[key].digest != reference.digest:
                raise ImatrixError(
                    f"{reference.path} is not the importance matrix of the plan, or has changed "
                    "since.",
                    "make the plan again",
                )
        result[number] = found[key]
    return result


def _second_moments(plans: Sequence[Plan]) -> dict[int, SecondMoments]:
    """The second moments by the numbers of the plans, each file opened once."""
    found: dict[str, SecondMoments] = {}
    result = {}
    for number, planned in enumerate(plans):
        reference = planned.second_moments
        if reference is None:
            continue
        if reference.path not in found:
            found[reference.path] = load_second_moments(reference.path)
        if found[reference.path].digest != reference.digest:
            raise ImatrixError(
                f"{reference.path} is not the second-moment file of the plan, or has changed "
                "since.",
                "make the plan again",
            )
        result[number] = found[reference.path]
    return result


def _results(
    plans: Sequence[Plan],
    paths: Sequence[tuple[Path, ...]],
    timings: Timings,
    started: float,
    setup: Setup | None,
) -> tuple[QuantizeResult, ...]:
    timings.total = time.perf_counter() - started
    devices = tuple(w.use for w in setup.workers if isinstance(w, Gpu)) if setup else ()
    notes = [] if setup is None else list(setup.notes)
    notes += (
        f"The GPU {use.index} ({use.name}) failed, and the processor went on in its place: "
        f"{use.failure}."
        for use in devices
        if use.failure
    )
    memory = setup.stream.memory if setup else 0
    return tuple(
        QuantizeResult(planned, names, planned.file_bytes, timings, devices, memory, tuple(notes))
        for planned, names in zip(plans, paths, strict=True)
    )
