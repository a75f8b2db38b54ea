"""A Hugging Face folder on the disk: its files, and whether its weights are all there."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from apex.errors import ModelFileError

__all__ = ["READ_SUFFIXES", "Checkpoint", "open_checkpoint", "safetensors_names"]

_INDEX = "model.safetensors.index.json"
# What the converter reads; what else lies in the folder is not an input.
READ_SUFFIXES = (".safetensors", ".json", ".jinja", ".md", ".model", ".py", ".tiktoken", ".txt")
_PICKLES = ("*.bin", "*.pt", "*.pth")
# safetensors itself refuses longer headers.
_MAX_HEADER = 100_000_000
_BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4},
    **{"I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32},
    **{"F64": 64, "I64": 64, "U64": 64},
}


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose headers are sound, and whose weights are all there.

    Attributes:
        folder: the folder.
        files: everything the converter may read, by name.
        file_bytes: their sizes.
        headers: the headers of the safetensors files, in the order of their names.
    """

    folder: Path
    files: tuple[Path, ...]
    file_bytes: tuple[int, ...]
    headers: tuple[bytes, ...]


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read configuration and headers, no weights. Raises ModelFileError."""
    if not (folder / "config.json").is_file():
        raise ModelFileError(
            f"{folder} has no config.json, so it is not a Hugging Face model.",
            "name the folder that has config.json and the safetensors files",
        )
    _read_json(folder / "config.json")
    there = {path.name for path in folder.iterdir() if path.is_file()}
    headers = [_read_header(folder / name) for name in safetensors_names(folder, there)]
    files = sorted(
        path for path in folder.iterdir() if path.suffix in READ_SUFFIXES and path.is_file()
    )
    sizes = tuple(path.stat().st_size for path in files)
    return Checkpoint(folder, tuple(files), sizes, tuple(headers))


def safetensors_names(folder: Path, there: Collection[str]) -> list[str]:
    """The safetensors files that a folder's weights are in, which must be among those ``there``.

    Raises ModelFileError.
    """
    index = folder / _INDEX
    if index.is_file():
        return _indexed(folder, index, there)
    found = sorted(n for n in there if n.startswith("model") and n.endswith(".safetensors"))
    if found:
        return found
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ModelFileError(
            f"{folder} has its weights only as pickle files ({_listed(pickles)}), which can run "
            "any code when they are read.",
            "apex reads safetensors; convert them with transformers' save_pretrained",
        )
    raise ModelFileError(
        f"{folder} has no weights.", f"apex looks for model.safetensors or {_INDEX}"
    )


def _indexed(folder: Path, index: Path, there: Collection[str]) -> list[str]:
    places = _read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
        raise ModelFileError(f"{index} has no weight_map.", "download it again")
    names = sorted(set(places.values()))
    strange = [name for name in names if Path(name).name != name]
    if strange:
        raise ModelFileError(f"{index} names a file outside its folder: {strange[0]}.", "delete it")
    absent = [name for name in names if name not in there]
    if absent:
        verb = "is" if len(absent) == 1 else "are"
        raise ModelFileError(
            f"{len(absent)} of the {len(names)} shards of {folder} {verb} missing: "
            f"{_listed(absent)}.",
            "download the model again; what is there is kept",
        )
    return names


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelFileError(
            f"{path} cannot be read: {error.strerror}.", "check the path"
        ) from None
    except ValueError as error:
        raise ModelFileError(f"{path} is not JSON: {error}.", "download it again") from None
    if not isinstance(value, dict):
        raise ModelFileError(f"{path} is not a JSON object.", "download it again")
    return value


def _read_header(path: Path) -> bytes:
    """The header of a safetensors file, all of whose tensors lie inside the file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(_MAX_HEADER, size - 8):
                raise ModelFileError(
                    f"{path} is truncated, or is not a safetensors file: it has {size} bytes.",
                    "download it again",
                )
            header = file.read(length)
    except OSError as error:
        raise ModelFileError(
            f"{path} cannot be read: {error.strerror}.", "check the disk"
        ) from None
    try:
        ends = [_end(entry) for name, entry in json.loads(header).items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelFileError(
            f"{path} is damaged: its header is not one of safetensors ({error}).",
            "download it again",
        ) from None
    described = 8 + length + max(ends, default=0)
    if described > size:
        raise ModelFileError(
            f"{path} is truncated: it has {size} of {described} bytes.", "download it again"
        )
    return header


def _end(entry: dict[str, Any]) -> int:
    """Where the data of a tensor ends. Raises ValueError, TypeError or KeyError."""
    start, end = map(int, entry["data_offsets"])
    shape = [int(count) for count in entry["shape"]]
    if min(shape, default=1) < 0 or start < 0 or end < start:
        raise ValueError("a shape or an offset is negative")
    if (end - start) * 8 != prod(shape) * _BITS[entry["dtype"]]:
        raise ValueError("the size of a tensor's data does not fit its shape")
    return end
