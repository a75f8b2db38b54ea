"""Who quantizes slabs: the processor, GPUs, and whoever registers."""

from __future__ import annotations

from apex.quantizing.workers.gpu import Gpu
from apex.quantizing.workers.objectives import Objectives
from apex.quantizing.workers.processor import Importances, Processor
from apex.quantizing.workers.worker import (
    Worker,
    register_workers,
    registered_workers,
    unregister_workers,
)

__all__ = [
    "Gpu",
    "Importances",
    "Objectives",
    "Processor",
    "Worker",
    "register_workers",
    "registered_workers",
    "unregister_workers",
]
