"""One job on a GPU, for tests."""

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
    """The bytes as a GPU makes them, and whether it vouches for them."""
    (out,), is_sound = quantize_all(x, [(type_name, weight)], device=device, source=source)
    return out, is_sound


def quantize_all(
    x: np.ndarray,
    targets: list[tuple[str, np.ndarray | None]],
    *,
    device: int = 0,
    source: str = "F32",
) -> tuple[list[np.ndarray], bool]:
    """The bytes of several (type, importance) in one slot, and whether the GPU vouches for all.

    x: (rows, columns) or (experts, rows, columns) of the source type; F16 and BF16 as uint16,
    quantized types as bytes.
    """
    facts = {facts.name: facts for facts in _core.tensor_types()}
    columns = x.shape[-1]
    if facts[source].is_quantized:
        columns = columns // facts[source].block_bytes * facts[source].block_weights
    shape = [*x.shape[:-1], columns]
    rows = int(np.prod(shape[:-1]))
    experts = x.shape[0] if x.ndim == 3 else 1
    outs = []
    for type_name, _ in targets:
        block = facts[type_name]
        row_bytes = columns // block.block_weights * block.block_bytes
        outs.append(np.zeros((*x.shape[:-1], row_bytes), np.uint8))
    quantizer = _core.DeviceQuantizer(
        device,
        1,
        source_bytes=x.nbytes,
        target_bytes=sum(out.nbytes for out in outs),
        importance_values=experts * columns * sum(weight is not None for _, weight in targets),
        rows=rows,
        dequantized_weights=rows * columns if facts[source].is_quantized else 0,
        targets=len(targets),
    )
    given = [(name, weight, out) for (name, weight), out in zip(targets, outs, strict=True)]
    quantizer.submit(0, x, source, shape, given)
    return outs, quantizer.wait(0).is_sound


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
