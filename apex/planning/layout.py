"""Where every byte of the output goes: shards, headers with llama-quantize's keys, offsets."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from apex import _core
from apex.errors import PlanError, UsageError
from apex.planning.data import Plan, PlannedFile
from apex.planning.options import MetadataValue
from apex.planning.request import Request
from apex.planning.tensor import REFERENCE, ROUNDING_KEY, PlannedTensor, rounding_of
from apex.sources import Source

if TYPE_CHECKING:
    from apex.files import ImportanceMatrix

__all__ = ["build_header", "lay_out"]

Key = tuple[str, str, MetadataValue]

# GGML_QNT_VERSION of ggml.h.
_QUANT_VERSION = 2

# llama-quantize cuts texts to this many bytes.
_MAX_TEXT = 127
_SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")


def lay_out(
    source: Source, tensors: Sequence[PlannedTensor], request: Request, file_type: int | None
) -> tuple[tuple[PlannedFile, ...], tuple[PlannedTensor, ...]]:
    """Divide the tensors into files, make the files' headers, and give every tensor its place.

    file_type: the value of general.file_type, or None to leave it out. Raises UsageError.
    """
    parts = _parts(tensors, request)
    files, placed = [], []
    for index, part in enumerate(parts):
        keys: list[Key] = []
        if index == 0:
            keys += _model_keys(file_type, request.imatrix, request)
            keys += _rounding_keys(tensors, request)
        if len(parts) > 1:
            keys += _split_keys(index, len(parts), len(tensors))
        header = _header(source, index, keys, part)
        data = header.to_bytes()
        offset = len(data)
        for tensor in part:
            placed.append(replace(tensor, file=index, offset=offset))
            offset += -(-tensor.bytes // header.alignment) * header.alignment
        digest = hashlib.sha256(data).hexdigest()
        files.append(PlannedFile(tuple(keys), header.alignment, len(data), digest, offset))
    return tuple(files), tuple(placed)


def build_header(source: Source, plan: Plan, index: int) -> bytes:
    """The header of a planned file. Raises PlanError where it is not the one that was planned."""
    file = plan.files[index]
    tensors = [tensor for tensor in plan.tensors if tensor.file == index]
    try:
        data = _header(source, index, file.keys, tensors).to_bytes()
    except (TypeError, ValueError, RuntimeError) as error:
        raise PlanError(f"The plan is damaged: {error}.", "make the plan again") from None
    if hashlib.sha256(data).hexdigest() != file.header_digest:
        raise PlanError(
            "The plan is damaged, or was made by another version of apex: its header cannot be "
            "made again.",
            "make the plan again",
        )
    return data


def _header(
    source: Source, index: int, keys: Sequence[Key], tensors: Sequence[PlannedTensor]
) -> _core.Header:
    """The source's metadata, byte for byte, then the keys; of shards only the first has any."""
    header = source.new_header() if index == 0 else _core.Header.empty()
    for key in _SPLIT_KEYS:
        header.remove(key)
    for key, kind, value in keys:
        header.set(key, kind, value)
    for tensor in tensors:
        header.add_tensor(tensor.name, list(tensor.source.shape), tensor.type)
    return header


def _parts(tensors: Sequence[PlannedTensor], request: Request) -> list[list[PlannedTensor]]:
    keep = request.options.get("keep_split", False)
    max_bytes = request.options.get("split_max_size")
    if keep and max_bytes is not None:
        raise UsageError(
            "The input's shards can be kept, or new ones made, but not both.",
            "use --keep-split or --split-max-size",
        )
    if keep:
        shards = sorted({tensor.source.shard for tensor in tensors})
        return [[tensor for tensor in tensors if tensor.source.shard == shard] for shard in shards]
    if max_bytes is None:
        return [list(tensors)]
    return _of_at_most(tensors, max_bytes)


def _of_at_most(tensors: Sequence[PlannedTensor], max_bytes: int) -> list[list[PlannedTensor]]:
    """Consecutive tensors of at most ``max_bytes`` together; a larger one is alone."""
    if max_bytes < 1:
        raise UsageError("A shard cannot be smaller than a byte.", "write --split-max-size 40G")
    parts: list[list[PlannedTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if parts[-1] and size + tensor.bytes > max_bytes:
            parts.append([])
            size = 0
        parts[-1].append(tensor)
        size += tensor.bytes
    return parts


def _split_keys(index: int, count: int, tensors: int) -> list[Key]:
    return [
        ("split.no", "u16", index),
        ("split.count", "u16", count),
        ("split.tensors.count", "i32", tensors),
    ]


def _model_keys(
    file_type: int | None, imatrix: ImportanceMatrix | None, request: Request
) -> list[Key]:
    """What llama-quantize sets, in its order."""
    keys: list[Key] = [("general.quantization_version", "u32", _QUANT_VERSION)]
    if file_type is not None:
        keys.append(("general.file_type", "u32", file_type))
    keys += [_override(key, value) for key, value in request.overrides.items()]
    if imatrix is not None:
        name = request.options.get("imatrix_name") or imatrix.path
        keys.append(("quantize.imatrix.file", "str", _shorten(name)))
        if imatrix.datasets:
            keys.append(("quantize.imatrix.dataset", "str", _shorten(imatrix.datasets[0])))
        keys.append(("quantize.imatrix.entries_count", "u32", len(imatrix.entries)))
        if imatrix.chunk_count > 0:
            keys.append(("quantize.imatrix.chunks_count", "u32", imatrix.chunk_count))
    return keys


def _rounding_keys(tensors: Sequence[PlannedTensor], request: Request) -> list[Key]:
    """The name of the rounding, where it is not llama.cpp's; of several, the last one."""
    rounding = rounding_of(tensors)
    keys: list[Key] = [] if rounding == REFERENCE else [(ROUNDING_KEY, "str", rounding)]
    if rounding == "compensated" and request.second_moments is not None:
        keys.append(("quantize.second_moments.file", "str", _shorten(request.second_moments.path)))
    return keys


def _override(key: str, value: MetadataValue) -> Key:
    if re.match(r"general\.alignment$|split\.", key):
        raise UsageError(f"{key} describes the file and cannot be overridden.", "leave it out")
    if isinstance(value, bool):
        return key, "bool", value
    if isinstance(value, int):
        if abs(value) >= 2**32:
            raise UsageError(f"{key}={value} does not fit 32 bits.", "write a smaller number")
        return key, "u32", abs(value)  # as llama-quantize writes it
    if isinstance(value, float):
        return key, "f32", value
    return key, "str", value


def _shorten(text: str) -> str:
    return text.encode(errors="replace")[:_MAX_TEXT].decode("utf-8", "ignore")
