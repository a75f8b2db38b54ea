"""Where a layer lies between the ends of the stack and its middle.

======================  ==========================================================================
routed                  ``edge``: the first and last ``edge_layers`` layers; ``near``: the next
                        ``near_layers`` on each side; ``middle``: the layers between
shared, dense           ``edge``: the first and last ``edge_layers`` layers; ``rest``: the others
attention, ssm, other   ``edge``: the first and last ``attention_edge_layers``; ``rest``: the others
mtp, embedding, output  ``all``
======================  ==========================================================================

In a model too short for all of them, edge wins over near, and near over middle.
"""

from __future__ import annotations

from apex.policy.roles import Role

__all__ = ["ZONES", "zone_of"]

_EDGE_AND_REST = ("edge", "rest")
_ALL = ("all",)

#: The zones of every role, from the ends of the stack inwards.
ZONES: dict[Role, tuple[str, ...]] = {
    Role.ROUTED: ("edge", "near", "middle"),
    Role.SHARED: _EDGE_AND_REST,
    Role.ATTENTION: _EDGE_AND_REST,
    Role.SSM: _EDGE_AND_REST,
    Role.DENSE: _EDGE_AND_REST,
    Role.MTP: _ALL,
    Role.EMBEDDING: _ALL,
    Role.OUTPUT: _ALL,
    Role.OTHER: _EDGE_AND_REST,
}


def zone_of(
    role: Role,
    layer: int | None,
    trunk_layers: int,
    *,
    edge_layers: int,
    near_layers: int,
    attention_edge_layers: int,
) -> str:
    """The zone of a tensor in ``layer`` (counted from 0), one of ``ZONES[role]``.

    Without a layer there is no gradient: ``""``, unless the role knows only the zone ``all``.
    """
    zones = ZONES[role]
    if zones == _ALL:
        return "all"
    if layer is None:
        return ""
    # Layers beyond the stack's declared end count as its last.
    distance = max(0, min(layer, trunk_layers - 1 - layer))
    if role in (Role.ATTENTION, Role.SSM, Role.OTHER):
        edge_layers = attention_edge_layers
    if distance < edge_layers:
        return "edge"
    if role is Role.ROUTED:
        return "near" if distance < edge_layers + near_layers else "middle"
    return "rest"
