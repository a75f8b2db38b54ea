"""Facts of ggml's tensor types, and all arithmetic of rows and bytes that follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from apex import _core

__all__ = [
    "FILE_TYPES",
    "IGNORE_IMPORTANCE",
    "TYPES",
    "FileType",
    "TensorType",
    "fits",
    "row_bytes",
    "tensor_bytes",
]

#: What ggml knows about a type: name, block_weights, block_bytes, is_quantized, has_quantizer, …
TensorType = _core.TensorType
#: A llama.cpp file type, such as Q4_K_M.
FileType = _core.FileType

#: Every tensor type by its upper-case name, in the order of ggml's numbers.
TYPES: dict[str, TensorType] = {facts.name: facts for facts in _core.tensor_types()}

#: Every file type that llama-quantize writes, by its name, from the largest to the smallest.
FILE_TYPES: dict[str, FileType] = {file_type.name: file_type for file_type in _core.file_types()}

#: Types that are written without looking at the importance.
IGNORE_IMPORTANCE = ("Q8_0", "MXFP4", "NVFP4", "TQ1_0", "TQ2_0", "Q1_0", "Q2_0")


def fits(type_name: str, columns: int) -> bool:
    """Whether rows of ``columns`` weights are a whole number of the type's blocks."""
    return columns % TYPES[type_name].block_weights == 0


def row_bytes(type_name: str, weights: int) -> int:
    """Size in bytes of this many weights, of one row or of several; whole blocks only."""
    facts = TYPES[type_name]
    return weights // facts.block_weights * facts.block_bytes


def tensor_bytes(type_name: str, shape: Sequence[int]) -> int:
    """Size of a tensor's data, without padding; its rows must be whole blocks."""
    return row_bytes(type_name, prod(shape))
