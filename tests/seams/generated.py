"""A source that exists only as a formula, of any size, and what its tensors hold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from apex import _core
from apex.sources import SourceReference, Tensor


class GeneratedSource:
    """A mixture of experts whose weights are computed when they are read.

    reads: how many bytes were read so far.
    """

    alignment = 32

    def __init__(self, layers: int, hidden: int, width: int, experts: int) -> None:
        self.layers, self.hidden, self.width, self.experts = layers, hidden, width, experts
        self.reads = 0
        self.tensors: Sequence[Tensor] = tuple(self._tensors())

    def _tensors(self) -> list[Tensor]:
        hidden, width = self.hidden, self.width
        result = [
            Tensor("token_embd.weight", (hidden, 512), "F16"),
            Tensor("output_norm.weight", (hidden,), "F32"),
        ]
        shapes = {
            "attn_norm": (hidden,),
            "attn_q": (hidden, hidden),
            "attn_k": (hidden, hidden),
            "attn_v": (hidden, hidden),
            "attn_output": (hidden, hidden),
            "ffn_norm": (hidden,),
            "ffn_gate_inp": (hidden, self.experts),
            "ffn_gate_exps": (hidden, width, self.experts),
            "ffn_up_exps": (hidden, width, self.experts),
            "ffn_down_exps": (width, hidden, self.experts),
        }
        for layer in range(self.layers):
            result += [
                Tensor(
                    f"blk.{layer}.{name}.weight",
                    shape,
                    "F32" if len(shape) == 1 or name == "ffn_gate_inp" else "F16",
                )
                for name, shape in shapes.items()
            ]
        return result

    @property
    def metadata(self) -> Mapping[str, Any]:
        header = self.new_header()
        return {key: header.get(key) for key in header.keys()}  # noqa: SIM118 - not a mapping

    def new_header(self) -> _core.Header:
        header = _core.Header.empty()
        header.set("general.architecture", "str", "qwen3moe")
        for key, value in {
            "block_count": self.layers,
            "embedding_length": self.hidden,
            "context_length": 512,
            "feed_forward_length": self.width,
            "expert_feed_forward_length": self.width,
            "attention.head_count": self.hidden // 64,
            "attention.head_count_kv": self.hidden // 64,
            "expert_count": self.experts,
            "expert_used_count": 2,
        }.items():
            header.set(f"qwen3moe.{key}", "u32", value)
        header.set("qwen3moe.attention.layer_norm_rms_epsilon", "f32", 1e-6)
        return header

    @property
    def reference(self) -> SourceReference:
        shape = repr((self.layers, self.hidden, self.width, self.experts)).encode()
        return SourceReference(
            kind="formula",
            location="nowhere",
            name="formula",
            architecture="qwen3moe",
            digest=hashlib.sha256(shape).hexdigest(),
            files=(),
            file_bytes=(),
            bytes=sum(tensor.bytes for tensor in self.tensors),
            weights=sum(tensor.weights for tensor in self.tensors),
        )

    def require_data(self) -> None:
        pass

    def read(self, tensor: Tensor, first_row: int, out: memoryview) -> None:
        rows = self.values(tensor, first_row, len(out) // tensor.row_bytes)
        np.frombuffer(out, np.uint8)[:] = rows.view(np.uint8).reshape(-1)
        self.reads += len(out)

    def values(self, tensor: Tensor, first_row: int, rows: int) -> np.ndarray[Any, Any]:
        """The weights, (rows, columns), float32 or float16 as the tensor has them."""
        place = np.arange(first_row, first_row + rows)[:, np.newaxis] * 31.0
        place = place + np.arange(tensor.columns) * 7.0 + len(tensor.name)
        kind = np.float32 if tensor.type == "F32" else np.float16
        return np.sin(place).astype(kind)
