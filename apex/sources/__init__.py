"""Sources of tensors: a header, a tensor table, and rows on request."""

from __future__ import annotations

from apex.sources.gguf import ModelFile, is_projector, open_model, shard_path
from apex.sources.huggingface import (
    HubFile,
    HuggingFaceModel,
    is_hub_file,
    is_hub_id,
    is_huggingface,
    open_huggingface,
)
from apex.sources.opening import Model, check_same, open_source, require_file
from apex.sources.source import Source, SourceReference, Tensor

__all__ = [
    "HubFile",
    "HuggingFaceModel",
    "Model",
    "ModelFile",
    "Source",
    "SourceReference",
    "Tensor",
    "check_same",
    "is_hub_file",
    "is_hub_id",
    "is_huggingface",
    "is_projector",
    "open_huggingface",
    "open_model",
    "open_source",
    "require_file",
    "shard_path",
]
