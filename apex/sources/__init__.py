"""Sources of tensors: a header, a tensor table, and rows on request."""

from __future__ import annotations

from apex.sources.gguf import ModelFile, Tensor, open_model, shard_path

__all__ = ["ModelFile", "Tensor", "open_model", "shard_path"]
