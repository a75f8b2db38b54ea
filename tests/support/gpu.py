"""One slab on a GPU, for tests."""

from __future__ import annotations

import numpy as np

from apex import _core


def quantize(
    x: np.ndarray,
    type_name: str,
    weight: np.ndarray | None,
    *,
    device: int = 0,
    source: str = "F32",
) -> tuple[np.ndarray, bool]:
    """The bytes as a GPU makes them, and whether it vouches for them.

    x: (rows, columns) or (experts, rows, columns) of the source type; F16 and BF16 as uint16,
    quantized types as bytes.
    """
    facts = {facts.name: facts for facts in _core.tensor_types()}
    columns = x.shape[-1]
    if facts[source].is_quantized:
        columns = columns // facts[source].block_bytes * facts[source].block_weights
    shape = [*x.shape[:-1], columns]
    rows = int(np.prod(shape[:-1]))
    block = facts[type_name]
    out = np.zeros((*x.shape[:-1], columns // block.block_weights * block.block_bytes), np.uint8)
    quantizer = _core.DeviceQuantizer(
        device,
        1,
        source_bytes=x.nbytes,
        target_bytes=out.nbytes,
        importance_values=0 if weight is None else columns * (x.shape[0] if x.ndim == 3 else 1),
        rows=rows,
        dequantized_weights=rows * columns if facts[source].is_quantized else 0,
    )
    quantizer.submit(0, x, source, shape, type_name, weight, out)
    return out, quantizer.wait(0).is_sound


def difference(
    x: np.ndarray, type_name: str, weight: np.ndarray | None, *, device: int
) -> str | None:
    """What a GPU does other than the processor; None if nothing.

    Where the processor refuses the weights, a GPU must not vouch for its bytes.
    """
    try:
        expected = _core.quantize(x, type_name, weight, threads=1)
    except ValueError:
        expected = None
    found, is_sound = quantize(x, type_name, weight, device=device)
    if expected is None:
        return "vouches for what the processor refuses" if is_sound else None
    if not is_sound:
        return "does not vouch for what the processor accepts"
    if np.array_equal(found, expected):
        return None
    facts = {facts.name: facts for facts in _core.tensor_types()}
    size = facts[type_name].block_bytes
    blocks = (found.reshape(-1, size) != expected.reshape(-1, size)).any(axis=1)
    return f"{blocks.sum()} of {blocks.size} blocks, the first is {blocks.argmax()}"
