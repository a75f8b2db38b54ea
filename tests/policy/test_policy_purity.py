"""The policy is usable without a compiler, and its public names are the agreed ones."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import apex.policy

FOLDER = Path(apex.policy.__file__).parent
MODULES = sorted(FOLDER.rglob("*.py"))


def imports(module: Path) -> set[str]:
    """Every module, or name within one, that the file imports, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            found |= {f"{prefix}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_policy_needs_nothing_but_the_standard_library_and_the_errors(module: Path) -> None:
    allowed_here = ("apex.policy.", "apex.errors.")
    for name in imports(module):
        assert "_core" not in name.split("."), name
        standard = name.split(".")[0] in {*sys.stdlib_module_names, "tomllib", "tomli"}
        assert standard or name.startswith(allowed_here), name


def test_all_lists_the_public_names() -> None:
    names = {"Role", "Layout", "layer_of", "role_of", "Recipe", "load_recipe", "tiers"}
    names |= {"Choice", "choose", "TensorTypeRule", "parse_tensor_type", "parse_tensor_type_file"}
    names |= {"recipe_text", "is_tier"}
    assert set(apex.policy.__all__) == names
    assert all(hasattr(apex.policy, name) for name in apex.policy.__all__)
