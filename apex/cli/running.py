"""Options of the commands that run a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from apex.errors import UsageError

if TYPE_CHECKING:
    from apex.inference import RunOptions

__all__ = [
    "BatchSize",
    "CacheTypeK",
    "CacheTypeV",
    "CtxSize",
    "GpuLayers",
    "MicroBatchSize",
    "run_options",
]

_RUN = "How the model is run"

CtxSize = Annotated[
    int,
    typer.Option(
        "--ctx-size", "-c", min=4, metavar="N", help="Tokens of a chunk.", rich_help_panel=_RUN
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(
        "--batch-size",
        "-b",
        min=1,
        metavar="N",
        help="Tokens that run together; several chunks, if there is room.",
        rich_help_panel=_RUN,
    ),
]
MicroBatchSize = Annotated[
    int,
    typer.Option(
        "--ubatch-size",
        "-ub",
        min=1,
        metavar="N",
        help="Tokens that libllama computes at a time.",
        rich_help_panel=_RUN,
    ),
]
CacheTypeK = Annotated[
    str,
    typer.Option(
        "--cache-type-k",
        "-ctk",
        metavar="TYPE",
        help="Type of the KV cache's keys, such as q8_0.",
        rich_help_panel=_RUN,
    ),
]
CacheTypeV = Annotated[
    str,
    typer.Option(
        "--cache-type-v",
        "-ctv",
        metavar="TYPE",
        help="Type of the KV cache's values.",
        rich_help_panel=_RUN,
    ),
]
GpuLayers = Annotated[
    str,
    typer.Option(
        "--gpu-layers",
        "-ngl",
        metavar="N|all",
        help="Layers that run on GPUs, counted from the output.",
        rich_help_panel=_RUN,
    ),
]


def run_options(context: typer.Context) -> RunOptions:
    """The options of the running command. Raises UsageError."""
    from apex.inference import RunOptions

    given = context.params
    return RunOptions(
        context_length=given["ctx_size"],
        batch_size=given["batch_size"],
        micro_batch_size=given["ubatch_size"],
        threads=given["threads"],
        cache_type_k=given["cache_type_k"].upper(),
        cache_type_v=given["cache_type_v"].upper(),
        gpu_layers=_layers(given["gpu_layers"]),
    )


def _layers(text: str) -> int:
    if text == "all":
        return -1
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{text} is no number of layers.", "use --gpu-layers N, or all") from None
