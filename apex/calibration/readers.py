"""What reads the rows of the embedding: no calibration is needed to know which errors it feels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.errors import DataError
from apex.sources import Source, Tensor

__all__ = ["EMBEDDING", "add_readers", "readers_of"]

EMBEDDING = "token_embd.weight"

# Of the first layer: the gains of a norm, and the matrices that read what it gives. Upstream calls
# the norm before the feed-forward part by one of two names.
_READERS = {
    ("attn_norm",): (
        *("attn_qkv", "attn_q", "attn_k", "attn_v", "attn_gate"),
        *("attn_q_a", "attn_kv_a_mqa", "ssm_in"),
    ),
    ("ffn_norm", "post_attention_norm"): (
        *("ffn_gate", "ffn_up", "ffn_gate_shexp", "ffn_up_shexp"),
    ),
}
# Rows that are dequantized at a time.
_ROWS = 1024

Rows = npt.NDArray[np.float32]


def readers_of(source: Source) -> list[tuple[Tensor, Tensor]]:
    """Norms and matrices of the first layer that read the embedding.

    Without any where the embedding is the output matrix too, which has other inputs.
    """
    tensors = {tensor.name: tensor for tensor in source.tensors}
    if EMBEDDING not in tensors or "output.weight" not in tensors:
        return []
    columns = tensors[EMBEDDING].columns
    found = []
    for norms, matrices in _READERS.items():
        gains = [f"blk.0.{name}.weight" for name in norms if f"blk.0.{name}.weight" in tensors]
        for name in (f"blk.0.{matrix}.weight" for matrix in matrices) if gains else ():
            if name in tensors and tensors[name].columns == columns:
                found.append((tensors[gains[0]], tensors[name]))
    return found


def add_readers(source: Source, sink: _core.Moments) -> None:
    """Give the rows of what reads the embedding, times the gains before them, to a sink.

    An error e of a row of the embedding changes what the first layer reads of it by their products
    with e. So their second moments are for its rows what those of inputs are for other matrices.
    Raises DataError where a weight or a gain is not finite.
    """
    for norm, matrix in readers_of(source):
        gains = next(_rows_of(source, norm))[0]
        for rows in _rows_of(source, matrix):
            read = rows * gains
            if not np.isfinite(read).all():
                raise DataError(
                    f"A weight of {matrix.name}, or a gain of {norm.name}, is NaN or infinite.",
                    "the model is damaged; download or convert it again",
                )
            sink.add(EMBEDDING, read)


def _rows_of(source: Source, tensor: Tensor) -> Iterator[Rows]:
    """Of a tensor, float32 (rows, columns), some at a time."""
    for first in range(0, tensor.rows, _ROWS):
        count = min(_ROWS, tensor.rows - first)
        data = np.empty(count * tensor.row_bytes, np.uint8)
        source.read(tensor, first, data.data)
        yield _core.dequantize(data, tensor.type, shape=(count, tensor.columns))
