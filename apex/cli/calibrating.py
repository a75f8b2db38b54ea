"""``apex imatrix`` and ``apex calibration``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from apex.cli import options, output, running
from apex.cli.progress import showing_stages
from apex.errors import UsageError

if TYPE_CHECKING:
    from apex.calibration import CalibrationProgress, CalibrationResult, Coverage
    from apex.calibration.summary import TensorStatistics
    from apex.files import ImportanceMatrix

__all__ = [
    "calibration",
    "collect",
    "merge",
    "planned_matrix",
    "print_calibration",
    "show",
    "showing_calibration",
]

# Typer reads annotations at run time, where Python 3.10 does not know every form of "X | None".
# ruff: noqa: UP045

_TEXT, _WHAT, _OUT = "Which text", "What is collected", "Where and how"
_SHOWN_LAYERS = 12

Out = Annotated[
    Optional[Path],
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="The file to write; by default MODEL's name with .imatrix.gguf, beside it.",
        rich_help_panel=_OUT,
    ),
]
Format = Annotated[
    str,
    typer.Option(
        "--output-format",
        metavar="gguf|dat",
        help="dat is the older form, which knows no experts.",
        rich_help_panel=_OUT,
    ),
]


def collect(
    context: typer.Context,
    model: options.Model,
    file: Annotated[
        Optional[list[str]],
        typer.Option(
            "--file",
            "-f",
            metavar="FILE[=WEIGHT]",
            help="A text; several are interleaved by their weights. Without any, the built-in set.",
            rich_help_panel=_TEXT,
        ),
    ] = None,
    out: Out = None,
    built_in: Annotated[
        bool,
        typer.Option(
            "--built-in", help="The built-in set beside the texts given.", rich_help_panel=_TEXT
        ),
    ] = False,
    parse_special: Annotated[
        bool,
        typer.Option(
            "--parse-special",
            help="Names of special tokens in the texts become those tokens.",
            rich_help_panel=_TEXT,
        ),
    ] = False,
    chunks: Annotated[
        Optional[int],
        typer.Option(min=1, metavar="N", help="At most so many chunks.", rich_help_panel=_TEXT),
    ] = None,
    skip_chunks: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Leave out so many chunks of each text.",
            rich_help_panel=_TEXT,
        ),
    ] = 0,
    until_coverage: Annotated[
        Optional[float],
        typer.Option(
            metavar="SHARE",
            help="Stop when this share of the experts is covered, such as 0.99.",
            rich_help_panel=_TEXT,
        ),
    ] = None,
    min_tokens: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="What an expert must have seen to be covered.",
            rich_help_panel=_TEXT,
        ),
    ] = 32,
    process_output: Annotated[
        bool,
        typer.Option("--process-output", help="The output matrix too.", rich_help_panel=_WHAT),
    ] = False,
    no_mtp: Annotated[
        bool,
        typer.Option(
            "--no-mtp",
            help="Leave out the multi-token-prediction head.",
            rich_help_panel=_WHAT,
        ),
    ] = False,
    in_file: Annotated[
        Optional[list[Path]],
        typer.Option(
            metavar="FILE",
            help="An importance matrix to continue from. Repeatable.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    ctx_size: running.CtxSize = 512,
    batch_size: running.BatchSize = 2048,
    ubatch_size: running.MicroBatchSize = 512,
    cache_type_k: running.CacheTypeK = "f16",
    cache_type_v: running.CacheTypeV = "f16",
    gpu_layers: running.GpuLayers = "0",
    output_format: Format = "gguf",
    save_every: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Chunks between checkpoints, from which a stopped run goes on.",
            rich_help_panel=_OUT,
        ),
    ] = 32,
    threads: options.Threads = 0,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run MODEL over texts and write its importance matrix."""
    from apex.calibration import CollectOptions, calibrate, read_texts
    from apex.calibration.automatic import path_beside
    from apex.sources import open_model

    legacy = _is_legacy(output_format)
    texts = read_texts(file or (), parse_special=parse_special)
    what = CollectOptions(
        run=running.run_options(context),
        chunks=chunks,
        skip_chunks=skip_chunks,
        output_matrix=process_output,
        mtp=not no_mtp,
        until_coverage=until_coverage,
        min_tokens=min_tokens,
        save_every=save_every,
    )
    target = out if out is not None else path_beside(open_model(model))
    with showing_calibration(quiet) as progress:
        result = calibrate(
            model,
            target,
            texts,
            built_in=built_in,
            options=what,
            continue_from=in_file or (),
            legacy=legacy,
            overwrite=overwrite,
            progress=progress,
        )
    if json:
        output.print_json(_to_dict(result))
    elif not quiet:
        print_calibration(result)


def _is_legacy(name: str) -> bool:
    if name not in ("gguf", "dat"):
        raise UsageError(f"There is no format {name}.", "use --output-format gguf or dat")
    return name == "dat"


def planned_matrix(path: Path) -> Path | ImportanceMatrix:
    """What ``--imatrix auto`` means where nothing is written: the one that is there, or will be."""
    import apex
    from apex.calibration.automatic import expected_matrix, matrix_beside

    model = apex.open_model(path)
    found = matrix_beside(model)
    if found is not None:
        output.say(f"using {found}, made of this model before")
        return found
    expected = expected_matrix(model)
    output.note(f"quantize would first make {expected.path}, from the built-in texts")
    return expected


@contextmanager
def showing_calibration(quiet: bool) -> Iterator[Callable[[CalibrationProgress], None]]:
    """Progress of a calibration; says how to go on after an interrupt."""
    done = 0
    try:
        with showing_stages(quiet) as stage:

            def progress(step: CalibrationProgress) -> None:
                nonlocal done
                done = step.chunks_done
                remark = f"{step.tokens_per_second:.0f} tokens/s"
                if step.coverage is not None:
                    remark += f", experts covered {100 * step.coverage.share:.2f} %"
                stage("calibrating", done, step.chunks, remark)

            yield progress
    except KeyboardInterrupt:
        output.say(
            f"interrupted after {done} chunks; the same command goes on from the last checkpoint"
        )
        raise typer.Exit(130) from None


def print_calibration(result: CalibrationResult) -> None:
    """What was collected, and from what."""
    rows = output.table("Texts", ("text", "chunks"), ("chunks",))
    for name, count in result.text_chunks.items():
        rows.add_row(name, str(count))
    output.print_table(rows)
    for text in result.notes:
        output.note(text)
    console = output.stdout()
    if result.coverage is not None:
        _print_coverage(result.coverage)
    speed = (result.tokens - result.resumed_chunks * result.tokens // result.chunks) / max(
        result.seconds, 1e-9
    )
    console.print(
        f"{result.entries} tensors over {result.tokens} tokens; {result.seconds:.1f} s, "
        f"{speed:.0f} tokens/s, peak memory {output.mib(result.peak_memory)} MiB"
    )
    console.print(output.printable(f"wrote {result.path}"), soft_wrap=True)


def _print_coverage(coverage: Coverage) -> None:
    console = output.stdout()
    console.print(
        f"experts: {coverage.reached} of {coverage.experts} reached, {coverage.covered} have seen "
        f"{coverage.min_tokens} tokens or more ({100 * coverage.share:.2f} %); median "
        f"{coverage.median:.0f}, fewest {coverage.fewest}"
    )
    layers = list(coverage.unreached.items())
    for layer, experts in layers[:_SHOWN_LAYERS]:
        which = ", ".join(map(str, experts[:_SHOWN_LAYERS]))
        more = f" and {len(experts) - _SHOWN_LAYERS} more" if len(experts) > _SHOWN_LAYERS else ""
        output.note(f"layer {layer}: no token reached experts {which}{more}")
    if len(layers) > _SHOWN_LAYERS:
        output.note(f"{len(layers) - _SHOWN_LAYERS} more layers have such experts")


def _to_dict(result: CalibrationResult) -> dict[str, Any]:
    return {
        "path": str(result.path),
        "chunks": result.chunks,
        "tokens": result.tokens,
        "seconds": result.seconds,
        "resumed_chunks": result.resumed_chunks,
        "texts": result.text_chunks,
        "entries": result.entries,
        "coverage": None if result.coverage is None else result.coverage.to_dict(),
        "notes": list(result.notes),
        "peak_memory_bytes": result.peak_memory,
    }


def merge(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Importance matrices of one model.")
    ],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")],
    chunk_size: Annotated[
        Optional[int],
        typer.Option(
            min=1,
            metavar="N",
            help="Tokens of a chunk, where the files do not say (.dat); 512 by default.",
        ),
    ] = None,
    output_format: Format = "gguf",
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Add up importance matrices, in GGUF form or .dat; one alone is converted."""
    from apex.calibration import Imatrix
    from apex.files import check_output, load_imatrix

    check_output([out], files, overwrite=overwrite)
    loaded = [load_imatrix(path) for path in files]
    sizes = {matrix.chunk_size for matrix in loaded if matrix.chunk_size}
    if chunk_size is None and len(sizes) > 1:
        output.note("the files have chunks of different sizes; the first one's is written")
    size = chunk_size or next((m.chunk_size for m in loaded if m.chunk_size), 512)
    matrix = Imatrix(chunk_size=size)
    for part in loaded:
        matrix.merge(part)
    path = matrix.save(out, legacy=_is_legacy(output_format), overwrite=overwrite)
    if not quiet:
        output.stdout().print(
            output.printable(f"wrote {path}: {len(matrix.entries)} tensors"), soft_wrap=True
        )


def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An importance matrix.")],
    layers: Annotated[
        bool, typer.Option("--layers", help="Averages per layer instead of every tensor.")
    ] = False,
    min_tokens: Annotated[
        int, typer.Option(min=1, metavar="N", help="What covers an expert.")
    ] = 32,
    json: options.Json = False,
) -> None:
    """Statistics of an importance matrix: tensors, layers, experts, the columns that dominate."""
    from apex.calibration import coverage_of
    from apex.calibration.summary import layer_statistics, tensor_statistics
    from apex.errors import ImatrixError
    from apex.files import load_imatrix

    matrix = load_imatrix(file)
    for name, entry in matrix.entries.items():
        if not entry.is_sound():
            raise ImatrixError(
                f"{file}: {name} holds values that are negative or not finite.",
                "write the importance matrix again",
            )
    tensors = tensor_statistics(matrix)
    per_layer = layer_statistics(tensors)
    counts = {name: entry.counts for name, entry in matrix.entries.items()}
    coverage = coverage_of(counts, min_tokens)
    if json:
        output.print_json(
            {
                "path": str(file),
                "datasets": list(matrix.datasets),
                "chunk_count": matrix.chunk_count,
                "chunk_size": matrix.chunk_size,
                "notes": dict(matrix.notes),
                "coverage": None if coverage is None else coverage.to_dict(),
                "tensors": [tensor.to_dict() for tensor in tensors],
                "layers": [layer.to_dict() for layer in per_layer],
            }
        )
        return
    if layers:
        numbers = ("layer", "mean total", "outliers %", "similarity")
        rows = output.table("Averages per layer", numbers, numbers)
        for layer in per_layer:
            rows.add_row(
                layer.layer,
                f"{layer.total:.2f}",
                f"{100 * layer.outliers:.2f}",
                f"{layer.similarity:.4f}",
            )
        output.print_table(rows)
    else:
        _print_tensors(tensors)
    console = output.stdout()
    form = "a .dat" if matrix.is_legacy else "GGUF"
    console.print(
        f"{len(matrix.entries)} tensors in {form} file, {matrix.chunk_count} chunks"
        + (f" of {matrix.chunk_size} tokens" if matrix.chunk_size else "")
    )
    if matrix.datasets:
        console.print(output.printable("texts: " + ", ".join(matrix.datasets)), soft_wrap=True)
    if coverage is not None:
        _print_coverage(coverage)


def _print_tensors(tensors: tuple[TensorStatistics, ...]) -> None:
    numbers = ("total", "max", "mean", "active %", "entropy %", "outliers %", "similarity")
    columns = ("tensor", *numbers, "largest columns", "experts")
    rows = output.table("Mean squared activations", columns, numbers)
    for tensor in tensors:
        dominant = ", ".join(f"{column} ({100 * share:.1f} %)" for column, share in tensor.dominant)
        rows.add_row(
            tensor.name,
            f"{tensor.total:.2f}",
            f"{tensor.maximum:.4g}",
            f"{tensor.mean:.4g}",
            f"{100 * tensor.active:.2f}",
            f"{100 * tensor.relative_entropy:.2f}",
            f"{100 * tensor.outliers:.2f}",
            "" if tensor.similarity is None else f"{tensor.similarity:.4f}",
            dominant,
            f"{tensor.reached}/{tensor.experts}" if tensor.experts > 1 else "",
        )
    output.print_table(rows)


def calibration(
    export: Annotated[
        Optional[Path],
        typer.Option(metavar="FOLDER", help="Write the texts there, one file per domain."),
    ] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """List the built-in calibration texts, or export them. Chats are exported as ChatML."""
    from apex.calibration import BUILT_IN, built_in_text
    from apex.files import OutputSet, check_output

    if export is None:
        rows = output.table("Built-in texts", ("name", "characters", "what"), ("characters",))
        total = 0
        for name, what in BUILT_IN.items():
            size = len(built_in_text(name))
            total += size
            rows.add_row(name, f"{size:,}", what)
        rows.add_row("together", f"{total:,}", "60 to 70 thousand tokens of most vocabularies")
        output.print_table(rows)
        return
    paths = [export / f"{name}.txt" for name in BUILT_IN]
    check_output(paths, overwrite=overwrite)
    with OutputSet(paths) as files:
        for name, file in zip(BUILT_IN, files.files, strict=True):
            file.write(built_in_text(name).encode())
        files.commit()
    output.stdout().print(output.printable(f"wrote {len(paths)} texts to {export}"), soft_wrap=True)
