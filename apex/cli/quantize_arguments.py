"""What ``apex quantize`` is given."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from apex.cli.arguments import (
    ANY_MODEL,
    FILES,
    TIER,
    JsonArgument,
    OverwriteArgument,
    QuietArgument,
    ThreadsArgument,
    TypesArguments,
)
from apex.cli.fit_arguments import FitArguments
from apex.cli.judging import JudgeArguments
from apex.cli.values import is_automatic, parse_layers
from apex.errors import UsageError

if TYPE_CHECKING:
    from apex.calibration import CollectOptions

__all__ = ["QuantizeArguments", "TargetArguments"]

# What decides a plan.
_DECIDING = (TypesArguments, FitArguments, JudgeArguments)
_AUTO = "Making an importance matrix, with --imatrix auto"


@dataclass(frozen=True, kw_only=True)
class TargetArguments:
    """What is made of which model, and where it goes."""

    model: Annotated[Path | None, typer.Argument(metavar="MODEL", help=ANY_MODEL)] = None
    out: Annotated[Path | None, typer.Argument(metavar="OUT", help="The file to write.")] = None
    tier: Annotated[
        list[str] | None,
        typer.Option(
            "--tier",
            "--profile",
            metavar="NAME|FILE",
            help="A tier, such as i-quality (apex tiers lists them), a fitted one, such as "
            "fit-mini, or a recipe of your own. Repeatable with -o; all for every plain tier.",
            rich_help_panel=TIER,
        ),
    ] = None
    file_type: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            metavar="TYPE",
            help="A llama.cpp file type instead of a tier, such as Q4_K_M, or COPY. Repeatable "
            "with -o.",
            rich_help_panel=TIER,
        ),
    ] = None
    plan: Annotated[
        Path | None,
        typer.Option(
            "--plan",
            metavar="FILE",
            help="Carry out a plan that apex plan --json wrote, instead of making one.",
            rich_help_panel=TIER,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class QuantizeArguments(
    QuietArgument,
    JsonArgument,
    OverwriteArgument,
    ThreadsArgument,
    TypesArguments,
    JudgeArguments,
    FitArguments,
    TargetArguments,
):
    """What ``apex quantize`` is given."""

    folder: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Where to write one file for each tier and type, instead of OUT.",
            rich_help_panel=FILES,
        ),
    ] = None
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
            help="What quantizes: auto takes the GPUs that are there. The bytes are the same.",
            rich_help_panel=FILES,
        ),
    ] = "auto"
    device: Annotated[
        str | None,
        typer.Option(
            metavar="N,…",
            help="Numbers of the GPUs to use, as in 0,1; all by default.",
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
            help="Layers that run on GPUs, counted from the output; none by default. With --vram, "
            "those that the file is to run with; all by default.",
            rich_help_panel=_AUTO,
        ),
    ] = None

    # --gpu-layers is for making an importance matrix too.
    for_a_gpu: ClassVar[tuple[str, ...]] = ("context", "cache_type_k", "cache_type_v", "cpu_moe")

    def is_choosing(self) -> bool:
        """Whether anything was given that a plan decides."""
        decided = (
            *("tier", "file_type"),
            *(item.name for kind in _DECIDING for item in fields(kind)),
        )
        defaults = {item.name: item.default for item in fields(self)}
        return any(getattr(self, name) != defaults[name] for name in decided)

    def collect_options(self) -> CollectOptions | None:
        """How an importance matrix is made; None for the defaults. Raises UsageError."""
        # With --vram, the layers are those that the file is to run with.
        gpu_layers = None if self.vram is not None else self.gpu_layers
        given = (self.chunks, self.ctx_size, gpu_layers)
        if all(value is None for value in given):
            return None
        if not is_automatic(self.imatrix):
            raise UsageError(
                "--chunks, --ctx-size and --gpu-layers are for making an importance matrix.",
                "add --imatrix auto; --gpu-layers goes with --vram too",
            )
        from apex.calibration import CollectOptions
        from apex.inference import RunOptions

        run = RunOptions(
            context_length=self.ctx_size or RunOptions.context_length,
            gpu_layers=parse_layers(gpu_layers or "0"),
        )
        return CollectOptions(run=run, chunks=self.chunks)
