"""Arguments of the commands that run a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apex.cli.arguments import ThreadsArgument
from apex.cli.values import parse_layers

if TYPE_CHECKING:
    from apex.calibration import Text
    from apex.inference import RunOptions

__all__ = ["TEXT", "ResidentArgument", "RunArguments", "TextArguments"]

_RUN, TEXT = "How the model is run", "Which text"


@dataclass(frozen=True, kw_only=True)
class TextArguments:
    """Over which text a model is run."""

    file: Annotated[
        list[str] | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE[=WEIGHT]",
            help="A text; several are interleaved by their weights. Without any, the built-in set.",
            rich_help_panel=TEXT,
        ),
    ] = None
    built_in: Annotated[
        bool,
        typer.Option(
            "--built-in", help="Use the built-in set beside the texts given.", rich_help_panel=TEXT
        ),
    ] = False
    parse_special: Annotated[
        bool,
        typer.Option(
            "--parse-special",
            help="Names of special tokens in the texts become those tokens.",
            rich_help_panel=TEXT,
        ),
    ] = False

    def texts(self) -> tuple[Text, ...]:
        """Those that were given, read. Raises UsageError."""
        from apex.calibration import read_texts

        return read_texts(self.file or (), parse_special=self.parse_special)


@dataclass(frozen=True, kw_only=True)
class ResidentArgument:
    """``--resident``."""

    resident: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A file of the same model to run in its place, such as a Q8_0 one that fits into "
            "memory.",
            rich_help_panel=_RUN,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class RunArguments(ThreadsArgument):
    """How a model is run."""

    ctx_size: Annotated[
        int,
        typer.Option(
            "--ctx-size", "-c", min=4, metavar="N", help="Tokens of a chunk.", rich_help_panel=_RUN
        ),
    ] = 512
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size",
            "-b",
            min=1,
            metavar="N",
            help="Tokens that run together; several chunks, if there is room.",
            rich_help_panel=_RUN,
        ),
    ] = 2048
    ubatch_size: Annotated[
        int,
        typer.Option(
            "--ubatch-size",
            "-ub",
            min=1,
            metavar="N",
            help="Tokens that libllama computes at a time.",
            rich_help_panel=_RUN,
        ),
    ] = 512
    cache_type_k: Annotated[
        str,
        typer.Option(
            "--cache-type-k",
            "-ctk",
            metavar="TYPE",
            help="Type of the KV cache's keys, such as q8_0.",
            rich_help_panel=_RUN,
        ),
    ] = "f16"
    cache_type_v: Annotated[
        str,
        typer.Option(
            "--cache-type-v",
            "-ctv",
            metavar="TYPE",
            help="Type of the KV cache's values.",
            rich_help_panel=_RUN,
        ),
    ] = "f16"
    gpu_layers: Annotated[
        str,
        typer.Option(
            "--gpu-layers",
            "-ngl",
            metavar="N|all",
            help="Layers that run on GPUs, counted from the output.",
            rich_help_panel=_RUN,
        ),
    ] = "0"

    def run_options(self) -> RunOptions:
        """These, as ``apex.inference`` takes them. Raises UsageError."""
        from apex.inference import RunOptions

        return RunOptions(
            context_length=self.ctx_size,
            batch_size=self.batch_size,
            micro_batch_size=self.ubatch_size,
            threads=self.threads,
            cache_type_k=self.cache_type_k.upper(),
            cache_type_v=self.cache_type_v.upper(),
            gpu_layers=parse_layers(self.gpu_layers),
        )
