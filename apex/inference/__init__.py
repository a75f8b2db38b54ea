"""Runs models through libllama: loading, texts to chunks, chunks to batches, memory."""

from __future__ import annotations

from apex.inference.batches import Batch, Tokens, batches, chunks_of
from apex.inference.failures import running
from apex.inference.memory import (
    available_gpu_memory,
    available_memory,
    check_memory,
    peak_memory,
)
from apex.inference.models import load_model, make_context
from apex.inference.options import RunOptions
from apex.inference.resident import Divergences, ResidentModel
from apex.inference.texts import read_bytes, read_text, require_utf8

__all__ = [
    "Batch",
    "Divergences",
    "ResidentModel",
    "RunOptions",
    "Tokens",
    "available_gpu_memory",
    "available_memory",
    "batches",
    "check_memory",
    "chunks_of",
    "load_model",
    "make_context",
    "peak_memory",
    "read_bytes",
    "read_text",
    "require_utf8",
    "running",
]
