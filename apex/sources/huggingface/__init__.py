"""Models in Hugging Face form as sources: upstream's converter says what their tensors become."""

from __future__ import annotations

from apex.sources.huggingface.hub import is_hub_id
from apex.sources.huggingface.model import HuggingFaceModel, open_huggingface

__all__ = ["HuggingFaceModel", "is_hub_id", "open_huggingface"]
