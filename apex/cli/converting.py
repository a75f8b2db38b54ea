"""``apex convert``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apex.cli import output
from apex.cli.arguments import FILES, JsonArgument, OverwriteArgument, QuietArgument
from apex.cli.output import Printer
from apex.cli.progress import showing_progress
from apex.cli.stopping import ending
from apex.errors import UsageError

if TYPE_CHECKING:
    from apex import Source

__all__ = ["convert", "fetch"]


@dataclass(frozen=True, kw_only=True)
class ConvertArguments(QuietArgument, JsonArgument, OverwriteArgument):
    """What ``apex convert`` is given."""

    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A Hugging Face folder with safetensors files, or a model of the Hub: OWNER/NAME "
            "or OWNER/NAME@REVISION.",
        ),
    ]
    out: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="OUT", help="The file to write.", rich_help_panel=FILES
        ),
    ]
    outtype: Annotated[
        str,
        typer.Option(
            metavar="auto|bf16|f16|f32|q8_0",
            help="The type of the weights; auto: the 16-bit type that the model has.",
        ),
    ] = "auto"
    mmproj: Annotated[
        bool,
        typer.Option("--mmproj", help="Write the projector of a vision or audio model instead."),
    ] = False
    mtp: Annotated[
        bool,
        typer.Option("--mtp", help="Write the multi-token-prediction head alone, a draft model."),
    ] = False
    no_mtp: Annotated[
        bool, typer.Option("--no-mtp", help="Leave out the multi-token-prediction head.")
    ] = False
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            help="Run Python files that come with the model, which some tokenizers want.",
        ),
    ] = False


def fetch(model: Source, printer: Printer) -> None:
    """Download the weights of a model of the Hub, and show how far that is."""
    from apex.sources import HuggingFaceModel

    if isinstance(model, HuggingFaceModel) and model.is_of_hub:
        with (
            ending("what was downloaded is kept"),
            showing_progress("downloading", printer) as advance,
        ):
            model.fetch(advance)


def convert(given: ConvertArguments) -> None:
    """Write a Hugging Face model as a GGUF file, with the bytes of llama.cpp's converter.

    It needs what the extra hf of apex-quant brings. To plan, quantize or verify, no file in between
    is needed: those commands take what this one takes.
    """
    import apex
    from apex.files import check_output
    from apex.sources import open_huggingface

    printer = Printer(quiet=given.quiet, json=given.json)
    if given.mtp + given.no_mtp + given.mmproj > 1:
        raise UsageError(
            "--mtp, --no-mtp and --mmproj exclude each other.", "make one file after the other"
        )
    check_output([given.out], overwrite=given.overwrite)  # before anything that takes long
    model = open_huggingface(
        given.source,
        given.outtype,
        as_projector=given.mmproj,
        mtp="only" if given.mtp else "none" if given.no_mtp else "keep",
        trusts_code=given.trust_remote_code,
    )
    fetch(model, printer)
    with ending("nothing was left behind"), showing_progress("converting", printer) as advance:
        result = apex.convert(model, given.out, overwrite=given.overwrite, progress=advance)
    printer.data(lambda: {**vars(result), "path": str(result.path)})
    printer.line(
        f"wrote {result.path}, {output.size(result.bytes)}: {result.architecture}, "
        f"{result.tensors} tensors, {result.weights:,} weights; {result.seconds:.1f} s"
    )
