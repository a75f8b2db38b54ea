"""The headers of the output, with the keys that llama-quantize sets, and the split into shards."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from gguf import GGML_QUANT_VERSION

from apex import _core
from apex.errors import UsageError
from apex.files import ImportanceMatrix
from apex.planning.options import MetadataValue
from apex.planning.planned import PlannedFile, PlannedTensor
from apex.sources import ModelFile

__all__ = ["output_headers"]

# llama-quantize keeps texts of at most so many bytes.
_MAX_TEXT = 127


def output_headers(
    model: ModelFile,
    tensors: Sequence[PlannedTensor],
    *,
    file_type: int | None,
    imatrix: ImportanceMatrix | None,
    overrides: Mapping[str, MetadataValue],
    keep_split: bool,
    split_max_size: int | None,
) -> tuple[PlannedFile, ...]:
    """Divide the tensors into files and make each file's header.

    The metadata of the model comes first, byte for byte, then what llama-quantize sets, in its
    order. Of shards, only the first has metadata.
    """
    if keep_split and split_max_size is not None:
        raise UsageError(
            "Shards are either kept or made anew.", "use --keep-split or --split-max-size"
        )
    if keep_split:
        parts = [
            [tensor for tensor in tensors if tensor.source.file == index]
            for index in range(len(model.files))
        ]
    elif split_max_size is not None:
        parts = _parts(tensors, split_max_size)
    else:
        parts = [list(tensors)]

    files = []
    for index, part in enumerate(parts):
        if index == 0:
            header = _core.Header.read_metadata(str(model.path))
            _set_keys(header, file_type, imatrix, overrides)
        else:
            header = _core.Header.empty()
        if len(parts) > 1:
            header.set("split.no", "u16", index)
            header.set("split.count", "u16", len(parts))
            header.set("split.tensors.count", "i32", len(tensors))
        for tensor in part:
            header.add_tensor(tensor.name, list(tensor.source.shape), tensor.type)
        files.append(PlannedFile(header.to_bytes(), header.alignment, tuple(part)))
    return tuple(files)


def _parts(tensors: Sequence[PlannedTensor], max_bytes: int) -> list[list[PlannedTensor]]:
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


def _set_keys(
    header: _core.Header,
    file_type: int | None,
    imatrix: ImportanceMatrix | None,
    overrides: Mapping[str, MetadataValue],
) -> None:
    header.set("general.quantization_version", "u32", GGML_QUANT_VERSION)
    if file_type is not None:
        header.set("general.file_type", "u32", file_type)
    for key in ("split.no", "split.count", "split.tensors.count"):
        header.remove(key)
    for key, value in overrides.items():
        _override(header, key, value)
    if imatrix is not None:
        header.set("quantize.imatrix.file", "str", _shorten(imatrix.path))
        if imatrix.datasets:
            header.set("quantize.imatrix.dataset", "str", _shorten(imatrix.datasets[0]))
        header.set("quantize.imatrix.entries_count", "u32", len(imatrix.entries))
        if imatrix.chunk_count > 0:
            header.set("quantize.imatrix.chunks_count", "u32", imatrix.chunk_count)


def _override(header: _core.Header, key: str, value: MetadataValue) -> None:
    if re.match(r"general\.alignment$|split\.", key):
        raise UsageError(f"{key} describes the file and cannot be overridden.", "leave it out")
    if isinstance(value, bool):
        header.set(key, "bool", value)
    elif isinstance(value, int):
        if abs(value) >= 2**32:
            raise UsageError(f"{key}={value} does not fit 32 bits.", "write a smaller number")
        header.set(key, "u32", abs(value))  # as llama-quantize writes it
    elif isinstance(value, float):
        header.set(key, "f32", value)
    else:
        header.set(key, "str", value)


def _shorten(text: str) -> str:
    return text.encode()[:_MAX_TEXT].decode("utf-8", "ignore")
