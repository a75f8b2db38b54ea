"""The arguments of the commands: a frozen dataclass for each, whose fields say how they are given.

Commands share fields by inheriting them. Of several bases the last one's fields come first.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_type_hints

import typer

from apex.cli.values import parse_override
from apex.sizes import parse_size

if TYPE_CHECKING:
    from apex.planning import PlanOptions

__all__ = [
    "JsonArgument",
    "ModelArgument",
    "OverwriteArgument",
    "PlanArguments",
    "QuietArgument",
    "RoundingArguments",
    "SourceArgument",
    "ThreadsArgument",
    "TypesArguments",
    "as_command",
    "help_text",
]

TIER, TYPES, FILES = "What to make", "Single tensors, as in llama-quantize", "Where and how"
ANY_MODEL = (
    "A GGUF file (of shards, the first), a Hugging Face folder, or a model of the Hub: OWNER/NAME "
    "or OWNER/NAME@REVISION."
)

Given = TypeVar("Given")


def as_command(function: Callable[[Given], None]) -> Callable[..., None]:
    """A function of one object of arguments as Typer wants it: with a parameter per field."""
    (kind,) = (hint for name, hint in get_type_hints(function).items() if name != "return")
    hints = get_type_hints(kind, include_extras=True)
    for hint in hints.values():
        for info in get_args(hint)[1:]:
            info.readable = False  # who reads a file says so, with the exit status that fits

    def command(**given: Any) -> None:
        function(kind(**given))

    command.__name__, command.__doc__ = function.__name__, help_text(function.__doc__ or "")
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                item.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if item.default is MISSING else item.default,
                annotation=hints[item.name],
            )
            for item in fields(kind)
        ]
    )
    return command


def help_text(text: str) -> str:
    """The text with every paragraph on one line: the help sets lines by its own width."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split("\n")) for paragraph in paragraphs)


@dataclass(frozen=True, kw_only=True)
class QuietArgument:
    """``--quiet``."""

    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")] = False


@dataclass(frozen=True, kw_only=True)
class JsonArgument:
    """``--json``."""

    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False


@dataclass(frozen=True, kw_only=True)
class OverwriteArgument:
    """``--overwrite``."""

    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace an output that exists.", rich_help_panel=FILES),
    ] = False


@dataclass(frozen=True, kw_only=True)
class ThreadsArgument:
    """``--threads``."""

    threads: Annotated[
        int,
        typer.Option(
            "--threads",
            "-t",
            min=0,
            metavar="N",
            help="Threads to use; 0 for all processors.",
            rich_help_panel=FILES,
        ),
    ] = 0


@dataclass(frozen=True, kw_only=True)
class SourceArgument:
    """A model that need not run."""

    model: Annotated[Path, typer.Argument(metavar="MODEL", help=ANY_MODEL)]


@dataclass(frozen=True, kw_only=True)
class ModelArgument:
    """A model."""

    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A GGUF file; of shards, the first.")
    ]


@dataclass(frozen=True, kw_only=True)
class RoundingArguments:
    """How weights become levels."""

    rounding: Annotated[
        str,
        typer.Option(
            metavar="reference|unshrunk|compensated",
            help="How weights become levels. reference: with llama.cpp's bytes; unshrunk: with "
            "scales by which outputs keep their size, for the types that gain from it; "
            "compensated: so that errors of columns whose inputs move together cancel.",
            rich_help_panel=TIER,
        ),
    ] = "reference"
    second_moments: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Second moments for compensated rounding; apex imatrix --second-moments "
            "collects them.",
            rich_help_panel=TIER,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class TypesArguments(RoundingArguments):
    """What a plan depends on beside the model, and beside its tier or file type."""

    imatrix: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|auto",
            help="Importance matrix, GGUF or .dat. auto: the one beside the model, which quantize "
            "makes where there is none.",
            rich_help_panel=TIER,
        ),
    ] = None
    edge_layers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Width of the edge at each end, in layers; 5 in the tiers.",
            rich_help_panel=TIER,
        ),
    ] = None
    near_layers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Width of the near zone on each side, in layers; 5 in the tiers.",
            rich_help_panel=TIER,
        ),
    ] = None
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Fail where a row length forces another type.", rich_help_panel=TIER
        ),
    ] = False
    tensor_type: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REGEX=TYPE",
            help="The type of the tensors whose name matches; first match wins. Repeatable.",
            rich_help_panel=TYPES,
        ),
    ] = None
    tensor_type_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A file of rules REGEX=TYPE, one a line.", rich_help_panel=TYPES
        ),
    ] = None
    output_tensor_type: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help="The type of output.weight.", rich_help_panel=TYPES),
    ] = None
    token_embedding_type: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help="The type of token_embd.weight.", rich_help_panel=TYPES),
    ] = None
    pure: Annotated[
        bool,
        typer.Option(
            "--pure", help="Use the file type's own type for every tensor.", rich_help_panel=TYPES
        ),
    ] = False
    leave_output_tensor: Annotated[
        bool,
        typer.Option(
            "--leave-output-tensor", help="Keep output.weight as it is.", rich_help_panel=TYPES
        ),
    ] = False
    allow_requantize: Annotated[
        bool,
        typer.Option(
            "--allow-requantize",
            help="Accept tensors that are quantized already; this loses quality.",
            rich_help_panel=TYPES,
        ),
    ] = False
    override_kv: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=TYPE:VALUE",
            help="Replace metadata; TYPE is int, float, bool or str. Repeatable.",
            rich_help_panel=TYPES,
        ),
    ] = None
    keep_split: Annotated[
        bool,
        typer.Option("--keep-split", help="Write shards like the input's.", rich_help_panel=FILES),
    ] = False
    split_max_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Write shards of at most this size, such as 40G or 500M (powers of 1000).",
            rich_help_panel=FILES,
        ),
    ] = None

    def options_for(self, tier: str | None, file_type: str | None) -> PlanOptions:
        """These, as ``apex.plan`` takes them. Raises UsageError."""
        limit = self.split_max_size
        return {
            "tier": tier,
            "file_type": file_type,
            "imatrix": self.imatrix,
            "rounding": self.rounding,
            "second_moments": self.second_moments,
            "edge_layers": self.edge_layers,
            "near_layers": self.near_layers,
            "tensor_types": self.tensor_type or (),
            "tensor_type_file": self.tensor_type_file,
            "output_tensor_type": self.output_tensor_type,
            "token_embedding_type": self.token_embedding_type,
            "pure": self.pure,
            "leave_output_tensor": self.leave_output_tensor,
            "allow_requantize": self.allow_requantize,
            "overrides": dict(map(parse_override, self.override_kv or ())),
            "strict": self.strict,
            "keep_split": self.keep_split,
            "split_max_size": None  # in powers of 1000, as llama-gguf-split
            if limit is None
            else parse_size(limit, "--split-max-size", 1000),
        }


@dataclass(frozen=True, kw_only=True)
class TierArgument:
    """``--tier`` and ``--type``: one of them."""

    tier: Annotated[
        str | None,
        typer.Option(
            "--tier",
            "--profile",
            metavar="NAME|FILE",
            help="A tier, such as i-quality (apex tiers lists them), or a recipe of your own.",
            rich_help_panel=TIER,
        ),
    ] = None
    file_type: Annotated[
        str | None,
        typer.Option(
            "--type",
            metavar="TYPE",
            help="A llama.cpp file type instead of a tier, such as Q4_K_M, or COPY.",
            rich_help_panel=TIER,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class PlanArguments(TypesArguments, TierArgument, SourceArgument):
    """A model and what is made of it: everything that a plan depends on."""

    def plan_options(self) -> PlanOptions:
        """These, as ``apex.plan`` takes them. Raises UsageError."""
        return self.options_for(self.tier, self.file_type)
