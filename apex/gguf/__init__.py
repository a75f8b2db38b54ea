"""Files in GGUF form: models (single or in shards), importance matrices, atomic output."""

from __future__ import annotations

from apex.gguf.imatrix import ImportanceEntry, ImportanceMatrix, load_imatrix, write_imatrix
from apex.gguf.model import ModelFile, Tensor, open_model, shard_path
from apex.gguf.output import OutputFile, OutputSet

__all__ = [
    "ImportanceEntry",
    "ImportanceMatrix",
    "ModelFile",
    "OutputFile",
    "OutputSet",
    "Tensor",
    "load_imatrix",
    "open_model",
    "shard_path",
    "write_imatrix",
]
