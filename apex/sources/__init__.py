"""Sources of tensors: a header, a tensor table, and rows on request."""

from __future__ import annotations

from apex.sources.gguf import (
    ModelFile,
    check_same,
    is_projector,
    open_model,
    open_source,
    shard_path,
)
from apex.sources.huggingface import HuggingFaceModel, open_folder
from apex.sources.source import Source, SourceReference, Tensor

__all__ = [
    "HuggingFaceModel",
    "ModelFile",
    "Source",
    "SourceReference",
    "Tensor",
    "check_same",
    "is_projector",
    "open_folder",
    "open_model",
    "open_source",
    "shard_path",
]
