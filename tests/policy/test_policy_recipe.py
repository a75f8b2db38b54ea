"""Recipes that users write: what is read, and what is said where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from apex.errors import UsageError
from apex.policy import Layout, Recipe, Role, choose, load_recipe, recipe_text, tiers

MINE = """
description = "My own."
base = "q4_k_m"
importance = "required"

[widths]
edge = 2
near = 3
attention_edge = 1

[types]
routed = { edge = "q6_k", near = "Q5_K", middle = "iq4_xs" }
shared = "Q8_0"
mtp = "Q8_0"
embedding = "q8_0"
output = { all = "Q6_K" }
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINE))
    assert recipe.name == "mine"
    assert recipe.description == "My own."
    assert recipe.base == "Q4_K_M"
    assert recipe.importance == "required"
    assert (recipe.edge_layers, recipe.near_layers, recipe.attention_edge_layers) == (2, 3, 1)
    assert recipe.types == {
        Role.ROUTED: {"edge": "Q6_K", "near": "Q5_K", "middle": "IQ4_XS"},
        Role.SHARED: {"edge": "Q8_0", "rest": "Q8_0"},
        Role.MTP: {"all": "Q8_0"},
        Role.EMBEDDING: {"all": "Q8_0"},
        Role.OUTPUT: {"all": "Q6_K"},
    }
    assert choose("token_embd.weight", Layout(16), recipe).type == "Q8_0"
    assert choose("output.weight", Layout(16), recipe).type == "Q6_K"
    assert choose("blk.1.attn_q.weight", Layout(16), recipe).zone == "rest"
    assert choose("blk.1.attn_q.weight", Layout(16), recipe).type is None


def test_the_shortest_recipe_and_its_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, 'base = "Q6_K"\n[types]\nrouted = "Q4_K"\n'))
    assert (recipe.description, recipe.importance) == ("", "none")
    assert (recipe.edge_layers, recipe.near_layers, recipe.attention_edge_layers) == (5, 5, 3)
    assert recipe.types == {Role.ROUTED: dict.fromkeys(("edge", "near", "middle"), "Q4_K")}


def test_a_path_may_be_a_string_and_windows_text_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbf" + MINE.replace("\n", "\r\n").encode())
    assert load_recipe(str(path)).base == "Q4_K_M"


def test_a_file_named_like_a_tier_is_reached_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "quality").write_text(MINE, encoding="utf-8")
    (tmp_path / "house-style").write_text(MINE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert load_recipe("quality").base == "Q6_K"
    assert load_recipe("./quality").base == "Q4_K_M"
    assert load_recipe(Path("quality")).base == "Q4_K_M"
    assert load_recipe("house-style").base == "Q4_K_M"


def test_an_unknown_tier_lists_the_tiers_and_the_closest() -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe("Qualty")
    assert caught.value.message == "There is no tier 'Qualty'."
    assert "did you mean 'quality'?" in caught.value.hint
    listing = "quality, i-quality, balanced, i-balanced, compact, i-compact, mini, nano, micro"
    assert listing in caught.value.hint


@pytest.mark.parametrize("name", ["", "i-", "i-i-quality", "x" * 5000, "nul\0byte"])
def test_nonsense_is_no_tier(name: str) -> None:
    with pytest.raises(UsageError):
        load_recipe(name)


def test_a_missing_file_and_a_folder_are_said_to_be_unreadable(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(UsageError) as caught:
            load_recipe(path)
        assert str(path) in caught.value.message
        assert "cannot be read" in caught.value.message


HEAD = 'base = "Q6_K"\n'


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("base =", "not valid TOML", "UTF-8"),
        (HEAD + "x = " + "[" * 20000, "not valid TOML", "UTF-8"),
        ('[types]\nrouted = "Q4_K"', "base is missing", "base and types"),
        (HEAD, "types is missing", "base and types"),
        (HEAD + "[types]", "types names no role", "routed, shared"),
        (HEAD + "typs = 1", "typs is not one of the keys", "did you mean 'types'?"),
        (HEAD + "[types]\nrouter = 'Q4_K'", "types.router is not", "did you mean 'routed'?"),
        (HEAD + "[types]\nzzz = 'Q4_K'", "types.zzz is not one of the roles", "roles: routed,"),
        (
            HEAD + "[types]\nrouted = {edge='A', near='A', midle='A'}",
            "types.routed.midle is not one of the zones",
            "did you mean 'middle'? zones: edge, near, middle",
        ),
        (
            HEAD + "[types]\nshared = {edge='A', near='A'}",
            "types.shared.near is not one of the zones",
            "zones: edge, rest",
        ),
        (
            HEAD + "[types]\nrouted = {edge='A', middle='A'}",
            "types.routed.near is missing",
            'routed = "Q8_0" for all',
        ),
        (HEAD + "[types]\nrouted = 4", "types.routed must be a type, or a table", "{...}"),
        (HEAD + "[types]\nmtp = {all = 8}", "types.mtp.all must be a string, not 8", "quotes"),
        (HEAD + "[types]\nmtp = 'Q8-0'", "types.mtp cannot be 'Q8-0'", "Q4_K"),
        (HEAD + "[types]\nmtp = ''", "types.mtp cannot be ''", "Q4_K"),
        (HEAD + "[types]\nmtp = '\u00df'", "types.mtp cannot be '\u00df'", "Q4_K"),
        (HEAD + "types = 'Q4_K'", "types must be a table", "{...}"),
        ("base = 6\n[types]\nmtp = 'Q8_0'", "base must be a string, not 6", "quotes"),
        ("base = 'Q 6'\n[types]\nmtp = 'Q8_0'", "base cannot be 'Q 6'", "Q4_K"),
        (
            HEAD + "importance = 'requird'\n[types]\nmtp = 'Q8_0'",
            "importance cannot be 'requird'",
            "did you mean 'required'? values: none, required",
        ),
        (HEAD + "importance = true\n[types]\nmtp = 'Q8_0'", "importance must be a", "quotes"),
        (HEAD + "description = 1\n[types]\nmtp = 'Q8_0'", "description must be a", "quotes"),
        (HEAD + "widths = 5\n[types]\nmtp = 'Q8_0'", "widths must be a table", "{...}"),
        (
            HEAD + "widths = {edges = 5}\n[types]\nmtp = 'Q8_0'",
            "widths.edges is not one of the widths",
            "did you mean 'edge'? widths: edge, near, attention_edge",
        ),
        (HEAD + "widths = {edge = -1}\ntypes = {mtp = 'A'}", "widths.edge cannot be -1", "layers"),
        (HEAD + "widths = {near = 1.5}\ntypes = {mtp = 'A'}", "widths.near cannot", "layers"),
        (HEAD + "widths = {near = true}\ntypes = {mtp = 'A'}", "widths.near cannot", "layers"),
    ],
)
def test_a_mistake_is_named_with_file_and_key(
    tmp_path: Path, text: str, message: str, hint: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load_recipe(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b'base = "\xff"')
    with pytest.raises(UsageError, match="not valid TOML"):
        load_recipe(path)


@pytest.mark.parametrize("tier", tiers(), ids=lambda tier: tier.name)
def test_the_text_of_a_tier_is_a_recipe_of_the_same_kind(tmp_path: Path, tier: Recipe) -> None:
    path = tmp_path / f"{tier.name}.toml"
    path.write_text(recipe_text(tier.name), encoding="utf-8")
    assert load_recipe(path) == tier
