"""Every tier against the published table, typed in here by hand, and against a published file."""

from __future__ import annotations

import pytest

from apex.policy import Layout, Recipe, Role, choose, load_recipe, tiers

# tier: routed edge/near/middle, shared edge/rest, attention edge/rest, base, mtp, importance
TABLE = {
    "quality": "Q6_K Q5_K IQ4_XS  Q8_0 Q8_0  Q6_K Q6_K  Q6_K    Q8_0 none",
    "i-quality": "Q6_K Q5_K IQ4_XS  Q8_0 Q8_0  Q6_K Q6_K  Q6_K    Q8_0 required",
    "balanced": "Q6_K Q5_K Q5_K    Q8_0 Q8_0  Q6_K Q6_K  Q6_K    Q8_0 none",
    "i-balanced": "Q6_K Q5_K Q5_K    Q8_0 Q8_0  Q6_K Q6_K  Q6_K    Q8_0 required",
    "compact": "Q4_K Q3_K Q3_K    Q6_K Q6_K  Q4_K Q4_K  Q4_K_M  Q8_0 none",
    "i-compact": "Q4_K Q3_K Q3_K    Q6_K Q6_K  Q4_K Q4_K  Q4_K_M  Q8_0 required",
    "mini": "Q3_K Q3_K IQ2_S   Q5_K Q4_K  Q4_K Q3_K  Q3_K_M  Q8_0 required",
    "nano": "Q3_K IQ2_S IQ2_XXS Q5_K Q4_K  Q4_K Q3_K  IQ2_XXS Q4_K required",
    "micro": "Q3_K IQ2_XS IQ1_M  Q5_K Q4_K  Q4_K Q3_K  IQ1_M   Q4_K required",
}


def cells(recipe: Recipe) -> list[str]:
    """The recipe as seen through ``choose``, at one layer of each zone of a 40-layer model."""
    layout = Layout(block_count=41, mtp_layers=1)
    row = [
        choose(name, layout, recipe).type or "-"
        for name in (
            "blk.0.ffn_gate_exps.weight",
            "blk.5.ffn_down_exps.weight",
            "blk.20.ffn_up_exps.weight",
            "blk.39.ffn_gate_shexp.weight",
            "blk.20.ffn_down_shexp.weight",
            "blk.2.attn_q.weight",
            "blk.3.attn_output.weight",
        )
    ]
    mtp = choose("blk.40.ffn_gate_exps.weight", layout, recipe).type or "-"
    return [*row, recipe.base, mtp, recipe.importance]


def test_tiers_are_listed_from_the_best_quality_to_the_smallest_file() -> None:
    assert [recipe.name for recipe in tiers()] == list(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_tier_has_the_published_types(name: str) -> None:
    assert cells(load_recipe(name)) == TABLE[name].split()


@pytest.mark.parametrize("recipe", tiers(), ids=lambda recipe: recipe.name)
def test_dense_follows_shared_while_ssm_and_other_follow_attention(recipe: Recipe) -> None:
    assert recipe.types[Role.DENSE] == recipe.types[Role.SHARED]
    assert recipe.types[Role.SSM] == recipe.types[Role.ATTENTION]
    assert recipe.types[Role.OTHER] == recipe.types[Role.ATTENTION]


@pytest.mark.parametrize("recipe", tiers(), ids=lambda recipe: recipe.name)
def test_every_tier_names_every_role_but_embedding_and_output(recipe: Recipe) -> None:
    assert set(recipe.types) == set(Role) - {Role.EMBEDDING, Role.OUTPUT}
    assert (recipe.edge_layers, recipe.near_layers, recipe.attention_edge_layers) == (5, 5, 3)
    assert recipe.description.endswith(".")


@pytest.mark.parametrize("name", ["mini", "nano", "micro"])
def test_small_tiers_have_an_alias_with_i(name: str) -> None:
    assert load_recipe(f"i-{name}") == load_recipe(name)
    assert load_recipe(f"i-{name}").name == name


@pytest.mark.parametrize("name", ["quality", "balanced", "compact"])
def test_i_tier_is_the_same_table(name: str) -> None:
    plain, weighted = load_recipe(name), load_recipe(f"i-{name}")
    assert weighted.types == plain.types
    assert weighted.description != plain.description


def test_the_name_of_a_tier_may_be_in_any_case() -> None:
    assert load_recipe("I-Quality") == load_recipe("i-quality")
    assert load_recipe("NANO") == load_recipe("nano")


def test_nano_equals_the_published_configuration_of_a_30_layer_model() -> None:
    # The reference's file for Gemma 4 26B, nano, written down as runs of layers.
    routed = ["Q3_K"] * 5 + ["IQ2_S"] * 5 + ["IQ2_XXS"] * 10 + ["IQ2_S"] * 5 + ["Q3_K"] * 5
    shared = ["Q5_K"] * 5 + ["Q4_K"] * 20 + ["Q5_K"] * 5
    attention = ["Q4_K"] * 3 + ["Q3_K"] * 24 + ["Q4_K"] * 3
    expected = {
        **dict.fromkeys(("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"), routed),
        **dict.fromkeys(("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"), shared),
        **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), attention),
        **dict.fromkeys(("attn_gate", "attn_qkv", "ssm_alpha", "ssm_beta", "ssm_out"), attention),
    }
    layout, nano = Layout(block_count=30), load_recipe("nano")
    for tensor, types in expected.items():
        names = [f"blk.{layer}.{tensor}.weight" for layer in range(30)]
        assert [choose(name, layout, nano).type for name in names] == types, tensor
