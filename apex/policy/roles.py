"""What a tensor does in its model, read from its GGUF name."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import SupportsIndex, cast

from apex.errors import ModelFileError

__all__ = ["Layout", "Role", "in_text_stack", "layer_of", "role_of"]


class Role(str, Enum):
    """A tensor's role; the value is the wording for people, ``name.lower()`` the recipe's key."""

    ROUTED = "routed expert"
    SHARED = "shared expert"
    ATTENTION = "attention"
    SSM = "ssm"
    DENSE = "dense ffn"
    MTP = "mtp"
    EMBEDDING = "embedding"
    OUTPUT = "output"
    OTHER = "other"


@dataclass(frozen=True)
class Layout:
    """How many layers and experts a model has.

    Attributes:
        block_count: all layers, those of the multi-token-prediction head included.
        mtp_layers: the trailing layers that make up the multi-token-prediction head.
        expert_count: routed experts per layer, 0 for a dense model.
    """

    block_count: int
    mtp_layers: int = 0
    expert_count: int = 0

    @property
    def trunk_layers(self) -> int:
        """The layers of the model proper, over which the gradient runs."""
        return self.block_count - self.mtp_layers

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object]) -> Layout:
        """Read the layout from a GGUF file's metadata; a missing key counts as 0.

        Per-layer lists count with their largest value. Raises ModelFileError where a value is not
        a count, or where the head has more layers than the whole model.
        """
        architecture = metadata.get("general.architecture", "")
        blocks, mtp, experts = (
            _count(metadata, f"{architecture}.{key}")
            for key in ("block_count", "nextn_predict_layers", "expert_count")
        )
        if mtp > blocks:
            raise ModelFileError(
                f"{architecture}.nextn_predict_layers is {mtp}, but the model has {blocks} layers.",
                "the file is damaged; --override-kv corrects a value",
            )
        return cls(blocks, mtp, experts)


def _count(metadata: Mapping[str, object], key: str) -> int:
    value = metadata.get(key, 0)
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        items = value if isinstance(value, Iterable) else (value,)
        count = max((operator.index(cast(SupportsIndex, item)) for item in items), default=0)
    except TypeError:
        raise ModelFileError(
            f"The metadata key {key} is not a whole number: {value!r}.",
            "the file is damaged; --override-kv corrects a value",
        ) from None
    if count < 0:
        raise ModelFileError(
            f"The metadata key {key} is negative: {count}.",
            "the file is damaged; --override-kv corrects a value",
        )
    return count


# Nine digits are more layers than any model has, and keep int() away from absurd names.
_LAYER = re.compile(r"(?P<stack>enc\.|dec\.|v\.|a\.)?blk\.(?P<layer>[0-9]{1,9})\.")

# A role's pattern must end at a dot or at the end of the name: "ffn_gate" is not "ffn_gate_inp".
_LAYER_ROLES = tuple(
    (re.compile(rf"(?:{pattern})(?![^.])"), role)
    for pattern, role in (
        # _chexps: the grouped experts of GroveMoE; ffn_up.3: one tensor per expert, as once written
        (r"ffn_(?:gate|up|down|gate_up)(?:_exps|_chexps|\.[0-9]+)", Role.ROUTED),
        (r"ffn_(?:gate|up|down|gate_up)_shexp", Role.SHARED),
        (r"ffn_(?:gate|up|down|gate_up)", Role.DENSE),
        (r"(?:cross_)?attn_[^.]+", Role.ATTENTION),
        (r"ssm_[^.]+", Role.SSM),
        (r"nextn", Role.MTP),
    )
)
_MODEL_ROLES = tuple(
    (re.compile(rf"(?:{pattern})(?![^.])"), role)
    for pattern, role in (
        (r"token_embd|per_layer_token_embd", Role.EMBEDDING),
        (r"output", Role.OUTPUT),
        (r"nextn", Role.MTP),
    )
)


def layer_of(name: str) -> int | None:
    """The layer that a tensor belongs to, or None: 12 for ``blk.12.attn_q.weight``.

    Encoder and decoder layers (``enc.blk.3.``, ``dec.blk.3.``) and those of a vision or audio
    encoder (``v.blk.3.``, ``a.blk.3.``) have their own numbers.
    """
    match = _LAYER.match(name)
    return int(match["layer"]) if match else None


def in_text_stack(name: str) -> bool:
    """Whether the tensor belongs to a layer of the language model, not of a vision encoder."""
    match = _LAYER.match(name)
    return match is not None and match["stack"] not in ("v.", "a.")


@lru_cache(maxsize=1 << 14)  # every tier asks for the same names
def role_of(name: str, layout: Layout) -> Role:
    """The role of the tensor called ``name``; whatever is not recognised is ``Role.OTHER``.

    Every tensor of the trailing ``layout.mtp_layers`` layers is ``Role.MTP``.
    """
    match = _LAYER.match(name)
    if match is None:
        return _first(_MODEL_ROLES, name)
    if not in_text_stack(name):
        return Role.OTHER
    # Without a head there is nothing to assign: T5 may have more decoder layers than block_count.
    trailing = int(match["layer"]) >= layout.trunk_layers
    if layout.mtp_layers > 0 and trailing and not match["stack"]:
        return Role.MTP
    return _first(_LAYER_ROLES, name[match.end() :])


def _first(table: tuple[tuple[re.Pattern[str], Role], ...], name: str) -> Role:
    return next((role for pattern, role in table if pattern.match(name)), Role.OTHER)
