"""How the values of options are read: devices, durations, layers, metadata."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from apex.errors import UsageError

if TYPE_CHECKING:
    from apex.planning.options import MetadataValue

__all__ = [
    "is_automatic",
    "parse_devices",
    "parse_duration",
    "parse_layers",
    "parse_override",
]

_NUMBER = r"(\d+(?:\.\d+)?)"
_DURATION = re.compile(
    rf"(?:{_NUMBER}\s*h)?\s*(?:{_NUMBER}\s*m(?:in)?)?\s*(?:{_NUMBER}\s*s)?",
    re.IGNORECASE | re.ASCII,
)


def is_automatic(imatrix: Path | None) -> bool:
    """Whether the importance matrix beside the model is meant; a file of that name is ./auto."""
    return imatrix is not None and str(imatrix) == "auto"


def parse_duration(text: str, option: str) -> float:
    """Seconds from "90s", "30m", "2h" or "1h30m". Raises UsageError."""
    match = _DURATION.fullmatch(text.strip())
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0, 0, 0)
    result = 3600 * hours + 60 * minutes + seconds
    if not result:
        raise UsageError(f"{option} {text} is not a time.", "write it like 90s, 30m, 2h or 1h30m")
    return result


def parse_devices(text: str | None) -> list[int] | None:
    """Numbers from "0,1"; None where nothing is given. Raises UsageError."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(
            f"--device {text} does not name GPUs.", "give their numbers, as in 0 or 0,1"
        )
    return [int(part) for part in parts]


def parse_override(text: str) -> tuple[str, MetadataValue]:
    """KEY=TYPE:VALUE, as llama.cpp reads it."""
    key, equals, rest = text.partition("=")
    kind, colon, value = rest.partition(":")
    try:
        text.encode()  # a ValueError where it is not UTF-8
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
            f"--override-kv {text} is not of the form KEY=TYPE:VALUE.",
            "write KEY=int:5, KEY=float:0.5, KEY=bool:true or KEY=str:text",
        ) from None


def parse_layers(text: str) -> int:
    """The value of --gpu-layers; -1 for all. Raises UsageError."""
    if text == "all":
        return -1
    try:
        return int(text)
    except ValueError:
        raise UsageError(
            f"{text} is not a number of layers.", "use --gpu-layers N, or all"
        ) from None
