"""Models in Hugging Face form → GGUF files, as llama.cpp's converter writes them."""

from __future__ import annotations

from apex.conversion.writing import ConvertResult, convert

__all__ = ["ConvertResult", "convert"]
