"""The gradient by hand and by property, as ``choose`` shows it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apex.errors import UsageError
from apex.policy import Choice, Layout, Recipe, Role, choose, load_recipe

QUALITY = load_recipe("quality")
MINI = load_recipe("mini")


def zones(tensor: str, layout: Layout, recipe: Recipe) -> str:
    """The zones of a tensor over all layers, one letter each."""
    names = [f"blk.{layer}.{tensor}.weight" for layer in range(layout.block_count)]
    return "".join(choose(name, layout, recipe).zone[0] for name in names)


@pytest.mark.parametrize(
    ("layers", "routed", "shared", "attention"),
    [
        (
            40,
            "eeeeennnnnmmmmmmmmmmmmmmmmmmmmnnnnneeeee",
            "eeeeerrrrrrrrrrrrrrrrrrrrrrrrrrrrrreeeee",
            "eeerrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrreee",
        ),
        (21, "eeeeennnnnmnnnnneeeee", "eeeeerrrrrrrrrrreeeee", "eeerrrrrrrrrrrrrrreee"),
        (16, "eeeeennnnnneeeee", "eeeeerrrrrreeeee", "eeerrrrrrrrrreee"),
        (7, "eeeeeee", "eeeeeee", "eeereee"),
        (1, "e", "e", "e"),
    ],
)
def test_gradient_by_hand(layers: int, routed: str, shared: str, attention: str) -> None:
    layout = Layout(block_count=layers)
    for tensor in ("ffn_gate_exps", "ffn_gate_up_exps", "ffn_up.3"):
        assert zones(tensor, layout, QUALITY) == routed
    for tensor in ("ffn_gate_shexp", "ffn_down"):
        assert zones(tensor, layout, QUALITY) == shared
    for tensor in ("attn_q", "ssm_out", "indexer.proj"):
        assert zones(tensor, layout, QUALITY) == attention


def test_16_layers_at_2_and_2_have_a_middle() -> None:
    recipe = QUALITY.widths(2, 2)
    layout = Layout(block_count=16)
    assert zones("ffn_up_exps", layout, recipe) == "eennmmmmmmmmnnee"
    assert zones("ffn_up_shexp", layout, recipe) == "eerrrrrrrrrrrree"
    assert zones("attn_q", layout, recipe) == "eeerrrrrrrrrreee"


def test_the_mtp_head_is_no_part_of_the_gradient() -> None:
    layout = Layout(block_count=17, mtp_layers=1)
    recipe = QUALITY.widths(2, 2)
    assert zones("ffn_up_exps", layout, recipe) == "eennmmmmmmmmnnee" + "a"
    head = choose("blk.16.attn_q.weight", layout, recipe)
    assert head == Choice(Role.MTP, 16, "all", "Q8_0")


def test_a_model_without_declared_layers_counts_as_edge() -> None:
    choice = choose("blk.0.ffn_up_exps.weight", Layout(block_count=0), QUALITY)
    assert choice == Choice(Role.ROUTED, 0, "edge", "Q6_K")


def test_layers_beyond_the_declared_end_count_as_its_last() -> None:
    recipe = QUALITY.widths(0, 1)
    assert choose("dec.blk.30.ffn_up.weight", Layout(24), MINI).zone == "edge"
    assert choose("dec.blk.30.ffn_up_exps.weight", Layout(24), recipe).zone == "near"
    assert choose("dec.blk.30.ffn_up.weight", Layout(24), recipe).zone == "rest"


def test_types_follow_the_zone() -> None:
    layout = Layout(block_count=40)
    assert choose("blk.12.ffn_up_exps.weight", layout, QUALITY) == Choice(
        Role.ROUTED, 12, "middle", "IQ4_XS"
    )
    assert choose("blk.9.ffn_up_exps.weight", layout, QUALITY).type == "Q5_K"
    assert choose("blk.4.ffn_down.weight", layout, MINI) == Choice(Role.DENSE, 4, "edge", "Q5_K")
    assert choose("blk.5.ffn_down.weight", layout, MINI) == Choice(Role.DENSE, 5, "rest", "Q4_K")
    assert choose("blk.3.shortconv.in_proj.weight", layout, MINI).type == "Q3_K"


def test_encoder_and_decoder_layers_run_along_their_own_gradient() -> None:
    layout = Layout(block_count=24)
    for stack in ("enc", "dec"):
        assert choose(f"{stack}.blk.23.ffn_up.weight", layout, MINI).zone == "edge"
        assert choose(f"{stack}.blk.12.ffn_up.weight", layout, MINI).zone == "rest"


@pytest.mark.parametrize("name", ["mm.0.weight", "output_norm.weight", "d2t", "v.sam.neck.0", ""])
def test_outside_the_layers_the_base_type_decides(name: str) -> None:
    assert choose(name, Layout(40), QUALITY) == Choice(Role.OTHER, None, "", None)


@pytest.mark.parametrize("name", ["v.blk.3.attn_q.weight", "a.blk.3.ffn_up.weight"])
def test_vision_and_audio_encoders_are_left_alone(name: str) -> None:
    assert choose(name, Layout(40), QUALITY) == Choice(Role.OTHER, 3, "", None)


def test_embedding_and_output_are_left_to_the_base_type() -> None:
    embedding = choose("token_embd.weight", Layout(40), QUALITY)
    output = choose("output.weight", Layout(40), QUALITY)
    assert (embedding.role, embedding.layer, embedding.type) == (Role.EMBEDDING, None, None)
    assert (output.role, output.layer, output.type) == (Role.OUTPUT, None, None)


def test_a_role_that_the_recipe_lacks_is_left_to_the_base_type() -> None:
    recipe = Recipe("mine", "", "Q4_K_M", "none", {Role.SHARED: {"edge": "Q8_0", "rest": "Q6_K"}})
    assert choose("blk.0.attn_q.weight", Layout(40), recipe).type is None
    assert choose("blk.9.ffn_up_shexp.weight", Layout(40), recipe).type == "Q6_K"


def test_widths_keep_what_is_none_and_refuse_what_is_negative() -> None:
    assert QUALITY.widths(None, None) == QUALITY
    assert (QUALITY.widths(2, None).edge_layers, QUALITY.widths(2, None).near_layers) == (2, 5)
    assert (QUALITY.widths(None, 0).edge_layers, QUALITY.widths(None, 0).near_layers) == (5, 0)
    assert QUALITY.edge_layers == 5
    with pytest.raises(UsageError, match="edge cannot be -1"):
        QUALITY.widths(-1, 2)
    with pytest.raises(UsageError, match="near cannot be -3"):
        QUALITY.widths(2, -3)


SIZES = st.integers(0, 130)
WIDTHS = st.integers(0, 70)


@settings(deadline=None)
@given(layers=SIZES, edge=WIDTHS, near=WIDTHS)
def test_every_layer_has_the_zone_that_counting_from_the_ends_gives(
    layers: int, edge: int, near: int
) -> None:
    # The oracle paints a strip of layers: middle first, then near over it, then edge over both.
    strip = ["m"] * layers
    for zone, width in (("n", edge + near), ("e", edge)):
        for step in range(min(width, layers)):
            strip[step] = strip[layers - 1 - step] = zone
    recipe = QUALITY.widths(edge, near)
    assert zones("ffn_up_exps", Layout(layers), recipe) == "".join(strip)
    two_zones = "".join("e" if zone == "e" else "r" for zone in strip)
    assert zones("ffn_up_shexp", Layout(layers), recipe) == two_zones


@settings(deadline=None)
@given(layers=SIZES, edge=WIDTHS, near=WIDTHS, tensor=st.sampled_from(["ffn_up_exps", "attn_q"]))
def test_both_ends_are_alike(layers: int, edge: int, near: int, tensor: str) -> None:
    strip = zones(tensor, Layout(layers), QUALITY.widths(edge, near))
    assert strip == strip[::-1]


@settings(deadline=None)
@given(layers=SIZES, near=WIDTHS)
def test_without_width_there_is_no_edge(layers: int, near: int) -> None:
    assert "e" not in zones("ffn_up_exps", Layout(layers), QUALITY.widths(0, near))
    assert set(zones("ffn_up_exps", Layout(layers), QUALITY.widths(0, 0))) <= {"m"}


NAME_PARTS = ["blk", "enc", "v", "3", "99999999999", "nextn", "ffn_up", "ffn_up_exps", "output", ""]
NAMES = st.text() | st.lists(st.sampled_from(NAME_PARTS) | st.text(max_size=3)).map(".".join)


@settings(deadline=None)
@given(name=NAMES, layout=st.builds(Layout, SIZES, st.integers(0, 3), SIZES))
def test_any_text_gets_a_choice(name: str, layout: Layout) -> None:
    choice = choose(name, layout, QUALITY)
    assert choice.zone in ("edge", "near", "middle", "rest", "all", "")
    assert choice.type == QUALITY.types.get(choice.role, {}).get(choice.zone)
