"""Models in Hugging Face form → GGUF files, as llama.cpp's converter writes them."""

from __future__ import annotations

from apex.conversion.writing import ConvertResult, convert, converted_bytes

__all__ = ["ConvertResult", "convert", "converted_bytes"]
