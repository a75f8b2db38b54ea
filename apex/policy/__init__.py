"""Which type a tensor gets: its role, its distance from the ends of the stack, a recipe's table.

Pure data and functions: nothing here reads a model, knows a tensor's shape or needs the compiled
extension. ``choose`` is the whole policy in one call::

    choose("blk.12.ffn_up_exps.weight", Layout(block_count=40), load_recipe("quality")).type
    # 'IQ4_XS'
"""

from __future__ import annotations

from apex.policy.choose import Choice, choose
from apex.policy.recipe import Recipe, is_tier, load_recipe, tiers
from apex.policy.roles import Layout, Role, layer_of, role_of
from apex.policy.tensor_types import TensorTypeRule, parse_tensor_type, parse_tensor_type_file
from apex.policy.text import recipe_text

__all__ = [
    "Choice",
    "Layout",
    "Recipe",
    "Role",
    "TensorTypeRule",
    "choose",
    "is_tier",
    "layer_of",
    "load_recipe",
    "parse_tensor_type",
    "parse_tensor_type_file",
    "recipe_text",
    "role_of",
    "tiers",
]
