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
