"""The policy itself: a tensor's name, a layout and a recipe in, a type out."""

from __future__ import annotations

from dataclasses import dataclass

from apex.policy.gradient import zone_of
from apex.policy.recipe import Recipe
from apex.policy.roles import Layout, Role, in_text_stack, layer_of, role_of

__all__ = ["Choice", "choose"]


@dataclass(frozen=True)
class Choice:
    """What the recipe says about one tensor, and why.

    Attributes:
        role: what the tensor does.
        layer: the layer in its name, counted from 0, or None.
        zone: "edge", "near", "middle", "rest" or "all"; "" for a tensor outside the gradient.
        type: the ggml type, upper case, or None where the base file type decides.
    """

    role: Role
    layer: int | None
    zone: str
    type: str | None


def choose(name: str, layout: Layout, recipe: Recipe) -> Choice:
    """The recipe's choice for the tensor called ``name`` in a model of this layout.

    Never fails: a name that nobody knows gets ``Role.OTHER``. Whether llama.cpp quantizes the
    tensor at all, and whether its rows fit the type, is for the plan to find out.
    """
    role = role_of(name, layout)
    layer = layer_of(name)
    zone = zone_of(
        role,
        layer if in_text_stack(name) else None,
        layout.trunk_layers,
        edge_layers=recipe.edge_layers,
        near_layers=recipe.near_layers,
        attention_edge_layers=recipe.attention_edge_layers,
    )
    return Choice(role, layer, zone, recipe.types.get(role, {}).get(zone))
