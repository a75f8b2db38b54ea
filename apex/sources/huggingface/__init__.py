"""Models in Hugging Face form as sources: upstream's converter says what their tensors become."""

from __future__ import annotations

from apex.sources.huggingface.hub import is_hub_id, is_huggingface
from apex.sources.huggingface.hub_file import HubFile, is_hub_file
from apex.sources.huggingface.model import HuggingFaceModel, open_huggingface

__all__ = [
    "HubFile",
    "HuggingFaceModel",
    "is_hub_file",
    "is_hub_id",
    "is_huggingface",
    "open_huggingface",
]
