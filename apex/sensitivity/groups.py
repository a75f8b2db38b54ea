"""Which tensors are measured together: those of one layer that do the same, by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from apex.errors import UsageError
from apex.policy import Layout, Role, layer_of, role_of
from apex.sensitivity.data import Group

__all__ = ["DETAILS", "KINDS", "groups_of", "kind_of"]

#: How finely tensors are grouped: by kind, by finer kinds, or each tensor by itself.
DETAILS = ("kind", "part", "tensor")

#: Every kind, in the order in which a token meets them; finer kinds follow those they are part of.
KINDS = (
    "embedding",
    "query, key, value",
    "query, key",
    "value",
    "attention output",
    "linear attention input",
    "small ssm",
    "linear attention output",
    *("dense gate, up", "dense gate", "dense up", "dense down"),
    *("gate, up experts", "gate experts", "up experts", "down experts"),
    *("shared experts", "shared gate, up", "shared down"),
    "other",
    "output",
    "multi-token prediction",
)

_MODEL_KINDS = {
    Role.EMBEDDING: "embedding",
    Role.OUTPUT: "output",
    Role.MTP: "multi-token prediction",
}
# By role and matrix: the kind, and the finer kind.
_FEED_FORWARD = {
    Role.ROUTED: {
        "gate": ("gate, up experts", "gate experts"),
        "up": ("gate, up experts", "up experts"),
        "gate_up": ("gate, up experts", "gate, up experts"),
        "down": ("down experts", "down experts"),
    },
    Role.SHARED: {
        "gate": ("shared experts", "shared gate, up"),
        "up": ("shared experts", "shared gate, up"),
        "gate_up": ("shared experts", "shared gate, up"),
        "down": ("shared experts", "shared down"),
    },
    Role.DENSE: {
        "gate": ("dense gate, up", "dense gate"),
        "up": ("dense gate, up", "dense up"),
        "gate_up": ("dense gate, up", "dense gate, up"),
        "down": ("dense down", "dense down"),
    },
}

_IN_LAYER = re.compile(r"(?P<stack>enc\.|dec\.|v\.|a\.|)blk\.[0-9]+\.(?P<rest>.*)")
_MATRIX = re.compile(r"ffn_(gate_up|gate|up|down)")

# A gate in a layer of softmax attention is like its queries, of which Qwen's files make it a part.
_LINEAR = ((re.compile(r"attn_(?:qkv|gate)(?![^.])"), "linear attention input"),)
_MIXING = tuple(
    (re.compile(rf"(?:{pattern})(?![^.])"), kind)
    for pattern, kind in (
        (r"attn_qkv", "query, key, value"),
        (r"(?:cross_)?attn_v(?:_b)?", "value"),
        (r"(?:cross_)?attn_(?:output|out|o)", "attention output"),
        (r"(?:cross_)?attn_(?:q|k|q_[ab]|k_b|kv_[^.]+|gate)|indexer", "query, key"),
        (r"ssm_in", "linear attention input"),
        (r"ssm_out", "linear attention output"),
        (r"ssm_[^.]+", "small ssm"),
    )
)

# How people call the stacks of layers that are numbered by themselves.
_STACKS = {"": "", "enc.": "encoder ", "dec.": "decoder ", "v.": "vision ", "a.": "audio "}


def kind_of(
    name: str, layout: Layout, *, has_linear_attention: bool = False, is_fine: bool = False
) -> str:
    """What a tensor does, one of ``KINDS``; whatever is not recognised is "other".

    has_linear_attention: whether its layer has state-space tensors, which makes ``attn_qkv`` and
        ``attn_gate`` the input of linear attention.
    is_fine: tell gate from up, and of shared experts both from down.
    """
    role = role_of(name, layout)
    if role in _MODEL_KINDS:
        return _MODEL_KINDS[role]
    match = _IN_LAYER.match(name)
    if match is None or match["stack"] in ("v.", "a."):
        return "other"
    if role in _FEED_FORWARD:
        matrix = _MATRIX.match(match["rest"])
        assert matrix is not None, name
        return _FEED_FORWARD[role][matrix[1]][is_fine]
    patterns = _LINEAR + _MIXING if has_linear_attention else _MIXING
    return next((kind for pattern, kind in patterns if pattern.match(match["rest"])), "other")


def groups_of(names: Sequence[str], layout: Layout, detail: str = "kind") -> tuple[Group, ...]:
    """Put each of these tensors in one group, without probes, in the order of first appearance.

    names: of all tensors that can be quantized; none twice.
    detail: "kind"; "part", which tells gate from up; or "tensor", a group for each, of a fine kind.

    Raises UsageError for another detail.
    """
    if detail not in DETAILS:
        raise UsageError(
            f"Tensors cannot be grouped by {detail!r}.", f"choose {', '.join(DETAILS)}"
        )
    linear = {_layer_name(name) for name in names if role_of(name, layout) is Role.SSM}
    found: dict[str, tuple[str, int | None, list[str]]] = {}
    for name in names:
        layer = _layer_name(name)
        kind = kind_of(name, layout, has_linear_attention=layer in linear, is_fine=detail != "kind")
        group = f"{layer}, {kind}" if layer else kind
        if detail == "tensor":
            group = name
        found.setdefault(group, (kind, layer_of(name), []))[2].append(name)
    return tuple(
        Group(group, kind, layer, tuple(tensors)) for group, (kind, layer, tensors) in found.items()
    )


def _layer_name(name: str) -> str:
    """How people call a tensor's layer: "layer 3", "decoder layer 3", or "" outside of layers."""
    layer = layer_of(name)
    match = _IN_LAYER.match(name)
    return f"{_STACKS[match['stack']]}layer {layer}" if match and layer is not None else ""
