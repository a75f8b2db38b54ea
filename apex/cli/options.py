"""The options that ``quantize`` and ``plan`` share, and how their values are read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from apex.errors import UsageError

if TYPE_CHECKING:
    from apex.planning.options import MetadataValue, PlanOptions

__all__ = [
    "AllowRequantize",
    "Backend",
    "Device",
    "DryRun",
    "EdgeLayers",
    "FileType",
    "Imatrix",
    "Json",
    "KeepSplit",
    "LeaveOutputTensor",
    "MaxMemory",
    "Model",
    "NearLayers",
    "OutputTensorType",
    "OverrideKv",
    "Overwrite",
    "Pure",
    "Quiet",
    "SplitMaxSize",
    "Strict",
    "TensorType",
    "TensorTypeFile",
    "Threads",
    "Tier",
    "TokenEmbeddingType",
    "parse_devices",
    "parse_size",
    "plan_options",
]

# Typer reads annotations at run time, where Python 3.10 does not know every form of "X | None".
# ruff: noqa: UP045

_TIER, _TYPES = "What to make", "Single tensors, as in llama-quantize"
_FILES = "Where and how"

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A GGUF file; of shards, the first.")]
Tier = Annotated[
    Optional[str],
    typer.Option(
        "--tier",
        "--profile",
        metavar="NAME|FILE",
        help="A tier, such as i-quality (apex tiers lists them), or a recipe of your own.",
        rich_help_panel=_TIER,
    ),
]
FileType = Annotated[
    Optional[str],
    typer.Option(
        "--type",
        metavar="TYPE",
        help="A llama.cpp file type instead of a tier, such as Q4_K_M, or COPY.",
        rich_help_panel=_TIER,
    ),
]
Imatrix = Annotated[
    Optional[Path],
    typer.Option(
        metavar="FILE|auto",
        help="Importance matrix, GGUF or .dat. With auto, quantize makes one beside the model.",
        rich_help_panel=_TIER,
    ),
]
EdgeLayers = Annotated[
    Optional[int],
    typer.Option(metavar="N", help="Layers of the edge at each end.", rich_help_panel=_TIER),
]
NearLayers = Annotated[
    Optional[int],
    typer.Option(metavar="N", help="Layers near the edge, each side.", rich_help_panel=_TIER),
]
TensorType = Annotated[
    Optional[list[str]],
    typer.Option(
        metavar="REGEX=TYPE",
        help="The type of the tensors whose name matches; first match wins. Repeatable.",
        rich_help_panel=_TYPES,
    ),
]
TensorTypeFile = Annotated[
    Optional[Path],
    typer.Option(metavar="FILE", help="A file of such rules.", rich_help_panel=_TYPES),
]
OutputTensorType = Annotated[
    Optional[str],
    typer.Option(metavar="TYPE", help="The type of output.weight.", rich_help_panel=_TYPES),
]
TokenEmbeddingType = Annotated[
    Optional[str],
    typer.Option(metavar="TYPE", help="The type of token_embd.weight.", rich_help_panel=_TYPES),
]
Pure = Annotated[
    bool,
    typer.Option(
        "--pure", help="The file type's own type for every tensor.", rich_help_panel=_TYPES
    ),
]
LeaveOutputTensor = Annotated[
    bool,
    typer.Option(
        "--leave-output-tensor", help="Keep output.weight as it is.", rich_help_panel=_TYPES
    ),
]
AllowRequantize = Annotated[
    bool,
    typer.Option(
        "--allow-requantize",
        help="Accept tensors that are quantized already; this loses quality.",
        rich_help_panel=_TYPES,
    ),
]
OverrideKv = Annotated[
    Optional[list[str]],
    typer.Option(
        metavar="KEY=TYPE:VALUE",
        help="Replace metadata; TYPE is int, float, bool or str. Repeatable.",
        rich_help_panel=_TYPES,
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict", help="Fail where a row length forces another type.", rich_help_panel=_TIER
    ),
]
KeepSplit = Annotated[
    bool,
    typer.Option("--keep-split", help="Write shards like the input's.", rich_help_panel=_FILES),
]
SplitMaxSize = Annotated[
    Optional[str],
    typer.Option(
        metavar="SIZE",
        help="Write shards of at most this size, such as 40G or 500M (powers of 1000).",
        rich_help_panel=_FILES,
    ),
]
Threads = Annotated[
    int,
    typer.Option("--threads", "-t", min=0, metavar="N", help="0 for all.", rich_help_panel=_FILES),
]
MaxMemory = Annotated[
    str,
    typer.Option(
        metavar="SIZE",
        help="Bound on the memory in use, such as 2G or 500M (powers of 1024).",
        rich_help_panel=_FILES,
    ),
]
Backend = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda",
        help="auto takes the GPUs that are there. The bytes are the same.",
        rich_help_panel=_FILES,
    ),
]
Device = Annotated[
    Optional[str],
    typer.Option(
        metavar="N,…", help="Numbers of the GPUs to use; without it all.", rich_help_panel=_FILES
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace an output that exists.", rich_help_panel=_FILES),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Check everything, show the plan, write nothing.",
        rich_help_panel=_FILES,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Data for machines on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")]

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE | re.ASCII)


def is_automatic(imatrix: Path | None) -> bool:
    """Whether the importance matrix beside the model is meant; a file of that name is ./auto."""
    return imatrix is not None and str(imatrix) == "auto"


def parse_size(text: str, option: str, unit: int = 1024) -> int:
    """Bytes from "2G", "500M" or "1048576"; K, M, G, T are powers of ``unit``, Ki, Mi, … of 1024.

    Raises UsageError.
    """
    match = _SIZE.fullmatch(text.strip())
    size = 0
    if match is not None:
        base = 1024 if match[3] else unit
        size = int(float(match[1]) * base ** " KMGT".index(match[2].upper() or " "))
    if size < 1:
        raise UsageError(f"{option} {text} is no size.", "write it like 2G or 500M")
    return size


def parse_devices(text: str | None) -> list[int] | None:
    """Numbers from "0,1"; None where nothing is given. Raises UsageError."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"--device {text} makes no sense.", "write it like 0 or 0,1")
    return [int(part) for part in parts]


def plan_options(context: typer.Context) -> PlanOptions:
    """The plan's options from the parameters of the running command."""
    given = context.params
    split_max_size = given.get("split_max_size")
    return {
        "tier": given["tier"],
        "file_type": given["file_type"],
        "imatrix": given["imatrix"],
        "edge_layers": given["edge_layers"],
        "near_layers": given["near_layers"],
        "tensor_types": given["tensor_type"] or (),
        "tensor_type_file": given["tensor_type_file"],
        "output_tensor_type": given["output_tensor_type"],
        "token_embedding_type": given["token_embedding_type"],
        "pure": given["pure"],
        "leave_output_tensor": given["leave_output_tensor"],
        "allow_requantize": given["allow_requantize"],
        "overrides": dict(map(_parse_override, given["override_kv"] or ())),
        "strict": given["strict"],
        "keep_split": given["keep_split"],
        "split_max_size": None
        if split_max_size is None
        else parse_size(split_max_size, "--split-max-size", 1000),  # as llama-gguf-split
    }


def _parse_override(text: str) -> tuple[str, MetadataValue]:
    """KEY=TYPE:VALUE, as llama.cpp reads it."""
    key, equals, rest = text.partition("=")
    kind, colon, value = rest.partition(":")
    try:
        if not (key and equals and colon):
            raise ValueError
        if kind == "int":
            return key, int(value)
        if kind == "float":
            return key, float(value)
        if kind == "bool":
            return key, {"true": True, "false": False}[value]
        if kind == "str":
            return key, value
        raise ValueError
    except (ValueError, KeyError):
        raise UsageError(
            f"--override-kv {text} makes no sense.",
            "write KEY=int:5, KEY=float:0.5, KEY=bool:true or KEY=str:text",
        ) from None
