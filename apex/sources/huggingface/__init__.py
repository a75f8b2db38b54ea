"""Hugging Face folders as sources: upstream's converter says what their tensors become."""

from __future__ import annotations

from apex.sources.huggingface.model import HuggingFaceModel, open_folder

__all__ = ["HuggingFaceModel", "open_folder"]
