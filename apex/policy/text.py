"""A recipe as the TOML that ``load_recipe`` reads, with comments that explain it."""

from __future__ import annotations

import json

from apex.policy.recipe import Recipe, load_recipe
from apex.policy.roles import Role

__all__ = ["recipe_text"]

_FORM = """\
# A recipe says which type every tensor gets, by its role and by its layer's distance from the ends
# of the model. Change it, save it as NAME.toml, and give it as --tier NAME.toml.

description = {description}

# The llama.cpp file type for everything that [types] does not name: embedding, output, ...
base = {base}

# "required": refuse to quantize without an importance matrix. "none": do without one.
importance = {importance}

# In layers, at each end of the model.
[widths]
edge = {edge}            # the first layers and the last ones
near = {near}            # the next on each side; what lies between is the middle
attention_edge = {attention}  # the edge for attention, ssm and other

# One line per role. A single type, such as shared = "Q8_0", stands for all zones; a role that is
# left out is left to the base type.
[types]
{types}
"""
_EXPLAINED = {
    Role.ROUTED: "experts chosen per token",
    Role.SHARED: "experts that are always active",
    Role.DENSE: "feed-forward layers without experts",
    Role.SSM: "state-space and linear-attention layers",
    Role.OTHER: "any other matrix of a layer",
    Role.MTP: "the multi-token-prediction head",
}


def recipe_text(name: str) -> str:
    """The TOML of a tier, to start a recipe from. Raises UsageError if there is no such tier."""
    recipe = load_recipe(name.lower())
    return _FORM.format(
        description=json.dumps(recipe.description),
        base=json.dumps(recipe.base),
        importance=json.dumps(recipe.importance),
        edge=recipe.edge_layers,
        near=recipe.near_layers,
        attention=recipe.attention_edge_layers,
        types="\n".join(_role_line(recipe, role) for role in recipe.types),
    )


def _role_line(recipe: Recipe, role: Role) -> str:
    zones = ", ".join(f"{zone} = {json.dumps(name)}" for zone, name in recipe.types[role].items())
    line = f"{role.name.lower()} = {{ {zones} }}"
    return f"{line}  # {_EXPLAINED[role]}" if role in _EXPLAINED else line
