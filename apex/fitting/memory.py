"""How many bytes of weights fit beside the caches and buffers of a context on a GPU."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from apex import _core
from apex.errors import UsageError
from apex.inference import RunOptions, running
from apex.policy import Layout, Role, layer_of, role_of
from apex.sources import ModelFile, Source

__all__ = ["GpuRoom", "gpu_room", "placed"]

# What drivers and libraries take, and what allocations lose.
_RESERVE = 512 << 20

# What llama.cpp's --cpu-moe leaves in the host's memory, heads included.
_EXPERTS = re.compile(r"\.ffn_(up|down|gate|gate_up)_(ch)?exps")


@dataclass(frozen=True)
class GpuRoom:
    """What a GPU can take of a model.

    Attributes:
        weights: bytes that are left for weights.
        cache, compute: bytes that the context's caches and buffers take.
        is_on_gpu: by name, whether a tensor lies there.
    """

    weights: int
    cache: int
    compute: int
    is_on_gpu: Callable[[str], bool]


def gpu_room(
    model: ModelFile,
    vram: int,
    run: RunOptions,
    *,
    layers: int = -1,
    experts_on_cpu: bool = False,
) -> GpuRoom:
    """What is left of a GPU's memory for weights. Raises UsageError where nothing is.

    vram: its bytes. run: the context, with its length and cache types.
    layers: how many lie on the GPU, from the last, the output counting as one; negative: all.
    experts_on_cpu: routed experts stay in the host's memory.

    Caches and buffers are what libllama itself says that the context takes; how much of the cache
    lies on the GPU is as many layers as do. libllama is asked without a GPU, for this machine may
    have none.
    """
    with running(model.path):
        need = _core.memory_need(
            os.fsencode(model.path),
            context_length=run.context_length,
            batch_size=min(run.batch_size, run.context_length),
            micro_batch_size=min(run.micro_batch_size, run.context_length),
            cache_type_k=run.cache_type_k,
            cache_type_v=run.cache_type_v,
        )
    layout = Layout.from_metadata(model.metadata)
    first = _first_layer(layout, layers)
    share = (layout.block_count - min(first, layout.block_count)) / max(layout.block_count, 1)
    cache = round(need["cache"] * share)
    left = vram - cache - need["compute"] - _RESERVE
    if left <= 0:
        raise UsageError(
            f"A context of {run.context_length} tokens takes {_gib(cache + need['compute'])} GiB "
            f"of caches and buffers, and with {_gib(_RESERVE)} GiB for the driver nothing of "
            f"{_gib(vram)} GiB is left for weights.",
            "use a smaller --context, --cache-type-k q8_0, or fewer --gpu-layers",
        )

    return GpuRoom(left, cache, need["compute"], placed(model, layers, experts_on_cpu))


def placed(model: Source, layers: int, experts_on_cpu: bool) -> Callable[[str], bool]:
    """Whether a tensor, by its name, lies on the GPU; the arguments are those of ``gpu_room``."""
    layout = Layout.from_metadata(model.metadata)
    first = _first_layer(layout, layers)
    has_output = any(tensor.name == "output.weight" for tensor in model.tensors)

    def is_on_gpu(name: str) -> bool:
        if experts_on_cpu and _EXPERTS.search(name):
            return False
        layer = layer_of(name)
        if layer is not None:
            return layer >= first
        # libllama leaves the embedding where it is read, row by row, and copies it to the GPU
        # where it is the output too.
        is_read = role_of(name, layout) is Role.EMBEDDING and (
            has_output or name != "token_embd.weight"
        )
        return layers != 0 and not is_read

    return is_on_gpu


def _first_layer(layout: Layout, layers: int) -> int:
    """The first layer on the GPU."""
    return 0 if layers < 0 else max(0, layout.block_count + 1 - layers)


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f}"
