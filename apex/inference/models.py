"""Loads models and makes contexts to run them in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypedDict

from apex import _core
from apex.errors import RunError
from apex.inference.failures import running
from apex.inference.memory import check_gpu_memory, check_memory
from apex.inference.options import RunOptions
from apex.sources import ModelFile, open_model

__all__ = ["load_model", "make_context"]


class _Sizes(TypedDict):
    """What decides a context's memory."""

    context_length: int
    batch_size: int
    micro_batch_size: int
    sequences: int
    cache_type_k: str
    cache_type_v: str
    unified_cache: bool
    mtp: bool


def load_model(
    model: str | os.PathLike[str] | ModelFile,
    *,
    mtp: bool = False,
    gpu_layers: int = 0,
    replaceable: bool = False,
) -> tuple[ModelFile, _core.Model]:
    """Load a GGUF file with libllama. Raises ModelFileError, RunError.

    model: a path, or a file that is open.
    mtp: with the multi-token-prediction layers.
    gpu_layers: as in RunOptions.
    replaceable: into memory, where weights can be changed, instead of mapped.
    """
    file = model if isinstance(model, ModelFile) else open_model(model)
    file.require_data()
    if file.is_projector:
        raise RunError(f"{file.path} is a projector, not a language model.", "give the model")
    with running(file.path):
        if gpu_layers:
            _require_gpu()
            need = _core.memory_need(os.fsencode(file.path), load_mtp=mtp, gpu_layers=gpu_layers)
            check_gpu_memory(f"Loading {file.path}", need["device_model"])
        return file, _core.Model(
            os.fsencode(file.path), mtp=mtp, gpu_layers=gpu_layers, replaceable=replaceable
        )


def _require_gpu() -> None:
    if not _core.gpu_backends():
        raise RunError(
            "This build of apex cannot run models on a GPU.",
            "build with APEX_GGML_CUDA=ON, or leave out --gpu-layers",
        )
    if not _core.gpu_devices():
        raise RunError(
            "No GPU was found.", "check the driver with nvidia-smi, or leave out --gpu-layers"
        )


def make_context(
    file: ModelFile,
    model: _core.Model,
    options: RunOptions,
    *,
    sequences: int | None = None,
    unified_cache: bool = False,
    mtp: bool = False,
    collect: Sequence[_core.ActivationSink] = (),
    collect_output: bool = False,
    collect_until: str = "",
) -> _core.Context:
    """What a model needs to run chunks side by side.

    sequences: how many; None for as many as a batch holds.
    unified_cache: one cache for all, so that they can share tokens.
    mtp: for the multi-token-prediction head instead of the trunk.
    collect: what activations are given to; then there are no logits.
    collect_output: the inputs of the output matrix too.
    collect_until: the tensor after which the rest of the model is not computed.
    Raises RunError where the memory is too small.
    """
    sequences = sequences or options.sequences
    length = sequences * options.context_length
    sizes: _Sizes = {
        "context_length": length,
        "batch_size": min(options.batch_size, length),
        "micro_batch_size": min(options.micro_batch_size, length),
        "sequences": sequences,
        "cache_type_k": options.cache_type_k,
        "cache_type_v": options.cache_type_v,
        "unified_cache": unified_cache,
        "mtp": mtp,
    }
    with running(file.path):
        need = _core.memory_need(os.fsencode(file.path), **sizes, gpu_layers=options.gpu_layers)
        check_memory(file.path, need)
        return _core.Context(
            model,
            **sizes,
            threads=options.threads,
            collect=collect,
            collect_output=collect_output,
            collect_until=collect_until,
        )
