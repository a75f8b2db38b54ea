"""Roles and layers of tensor names that real models have."""

from __future__ import annotations

import pytest

from apex.errors import ModelFileError
from apex.policy import Layout, Role, layer_of, role_of

LAYOUT = Layout(block_count=48, mtp_layers=0, expert_count=256)

NAMES = {
    Role.ROUTED: """
        blk.0.ffn_gate_exps.weight blk.7.ffn_up_exps.weight blk.47.ffn_down_exps.weight
        blk.3.ffn_gate_up_exps.weight blk.3.ffn_down_exps.scale blk.3.ffn_gate_exps.bias
        blk.3.ffn_gate_chexps.weight blk.3.ffn_up_chexps.weight blk.3.ffn_down_chexps.weight
        blk.3.ffn_gate.0.weight blk.3.ffn_up.7.weight blk.3.ffn_down.11.weight
        enc.blk.3.ffn_up_exps.weight""",
    Role.SHARED: """
        blk.0.ffn_gate_shexp.weight blk.7.ffn_up_shexp.weight blk.47.ffn_down_shexp.weight
        blk.3.ffn_gate_up_shexp.weight""",
    Role.DENSE: """
        blk.0.ffn_gate.weight blk.7.ffn_up.weight blk.47.ffn_down.weight blk.3.ffn_gate_up.weight
        blk.3.ffn_up.bias enc.blk.3.ffn_gate.weight dec.blk.3.ffn_down.weight""",
    Role.ATTENTION: """
        blk.0.attn_q.weight blk.7.attn_k.weight blk.47.attn_v.weight blk.3.attn_qkv.weight
        blk.3.attn_output.weight blk.3.attn_gate.weight blk.3.attn_q_a.weight blk.3.attn_q_b.weight
        blk.3.attn_kv_a_mqa.weight blk.3.attn_kv_b.weight blk.3.attn_k_b.weight
        blk.3.attn_v_b.weight blk.3.attn_kv.weight blk.3.attn_output_a.weight blk.3.attn_q.bias
        blk.3.attn_compressor_kv.weight blk.3.attn_sinks.weight enc.blk.3.attn_o.weight
        dec.blk.3.attn_rel_b.weight dec.blk.3.cross_attn_q.weight dec.blk.3.cross_attn_o.weight""",
    Role.SSM: """
        blk.0.ssm_in.weight blk.7.ssm_out.weight blk.47.ssm_alpha.weight blk.3.ssm_beta.weight
        blk.3.ssm_ba.weight blk.3.ssm_conv1d.weight blk.3.ssm_conv1d_q.weight blk.3.ssm_a
        blk.3.ssm_d blk.3.ssm_dt.bias blk.3.ssm_x.weight blk.3.ssm_f_a.weight blk.3.ssm_g.weight""",
    Role.EMBEDDING: "token_embd.weight per_layer_token_embd.weight",
    Role.OUTPUT: "output.weight output.bias",
    Role.MTP: """
        blk.40.nextn.eh_proj.weight blk.40.nextn.embed_tokens.weight nextn.pre_projection.weight
        blk.40.nextn.shared_head_head.weight""",
    Role.OTHER: """
        blk.3.ffn_gate_inp.weight blk.3.ffn_gate_inp.bias blk.3.ffn_gate_inp_shexp.weight
        blk.3.exp_probs_b.bias blk.3.ffn_norm.weight blk.3.ffn_norm_exps.weight
        blk.3.ffn_gate_tid2eid.weight blk.3.ffn_latent_down.weight blk.3.ffn_latent_up.weight
        blk.3.ffn_routed_down.weight blk.3.ffn_routed_up.weight blk.3.ffn_res_score.weight
        blk.3.ffn_sub_norm.weight blk.3.ffn_conv_proj.weight blk.3.post_attention_norm.weight
        blk.3.indexer.attn_k.weight blk.3.indexer.attn_q_b.weight blk.3.indexer.proj.weight
        blk.3.indexer_compressor_kv.weight blk.3.shortconv.conv.weight
        blk.3.shortconv.in_proj.weight blk.3.shortconv.out_proj.weight blk.3.hc_attn_fn.weight
        blk.3.hc_ffn_up.weight blk.3.inp_gate.weight blk.3.proj.weight blk.3.post_norm.weight
        blk.3.altup_router.weight blk.3.laurel_l.weight blk.3.ple_key.weight
        blk.3.time_mix_key.weight blk.3.time_mix_output.weight blk.3.channel_mix_value.weight
        blk.3.vis_attn_qkv.weight blk.3.vis_gate.weight blk.3.token_embd.weight blk.3.output.weight
        token_embd_norm.weight token_types.weight position_embd.weight output_norm.weight
        output_hc_fn.weight output_res_score.weight enc.output_norm.weight dec.output_norm.weight
        rope_freqs.weight per_layer_model_proj.weight altup_proj.weight dense_2.weight cls.weight
        cls.output.weight fc.weight d2t mm.0.weight mm.model.fc.weight mm.a.fc.weight
        v.patch_embd.weight v.blk.3.attn_q.weight v.blk.3.ffn_up_exps.weight v.blk.47.ffn_up.weight
        a.blk.3.ffn_up.weight a.blk.3.attn_out.weight v.sam.blk.3.attn.qkv.weight
        v.token_embd.img_break v.proj_blk.3.ffn_up.weight mm.a.local_blk.0.attn_q.weight
        convnext.0.dw.weight posnet.2.attn_q.weight resampler.attn.q.weight ffn_gate_exps.weight
        attn_q.weight blk.x.attn_q.weight blk.attn_q.weight xblk.3.attn_q.weight""",
}
CASES = [(name, role) for role, names in NAMES.items() for name in names.split()]


@pytest.mark.parametrize(("name", "role"), CASES, ids=[name for name, _ in CASES])
def test_role(name: str, role: Role) -> None:
    assert role_of(name, LAYOUT) is role


def test_mtp_wins_over_every_other_role_of_the_trailing_layers() -> None:
    layout = Layout(block_count=48, mtp_layers=2)
    for name, role in CASES:
        if name.startswith("blk.3."):
            for layer in (46, 47):
                trailing = name.replace("blk.3.", f"blk.{layer}.")
                assert role_of(trailing, layout) is Role.MTP, trailing
            trunk = name.replace("blk.3.", "blk.45.")
            assert role_of(trunk, layout) is role, trunk


def test_mtp_is_no_matter_of_vision_or_encoder_layers() -> None:
    layout = Layout(block_count=4, mtp_layers=1)
    assert role_of("v.blk.3.attn_q.weight", layout) is Role.OTHER
    assert role_of("enc.blk.3.attn_q.weight", layout) is Role.ATTENTION
    assert role_of("token_embd.weight", layout) is Role.EMBEDDING


def test_layers_beyond_the_end_are_no_mtp_head_where_the_model_has_none() -> None:
    assert role_of("blk.50.attn_q.weight", LAYOUT) is Role.ATTENTION


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("blk.12.attn_q.weight", 12),
        ("blk.0.ffn_norm.weight", 0),
        ("enc.blk.3.attn_q.weight", 3),
        ("dec.blk.23.cross_attn_q.weight", 23),
        ("v.blk.3.ln1.weight", 3),
        ("a.blk.31.ffn_up.weight", 31),
        ("token_embd.weight", None),
        ("mm.0.weight", None),
        ("v.proj_blk.3.query", None),
        ("convnext.0.dw.weight", None),
        ("blk.attn_q.weight", None),
        ("blk.-1.attn_q.weight", None),
        ("blk.\u0663.attn_q.weight", None),  # a digit, but not an ASCII one
        ("blk." + "9" * 5000 + ".attn_q.weight", None),
        ("blk.7", None),
        ("", None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_layer(name: str, layer: int | None) -> None:
    assert layer_of(name) == layer


def test_layout_from_metadata() -> None:
    metadata = {
        "general.architecture": "qwen35moe",
        "qwen35moe.block_count": 41,
        "qwen35moe.nextn_predict_layers": 1,
        "qwen35moe.expert_count": 256,
        "llama.block_count": 7,
    }
    layout = Layout.from_metadata(metadata)
    assert layout == Layout(block_count=41, mtp_layers=1, expert_count=256)
    assert layout.trunk_layers == 40


def test_layout_takes_the_maximum_of_a_list_and_zero_for_what_is_missing() -> None:
    metadata = {"general.architecture": "x", "x.block_count": 6, "x.expert_count": [0, 8, 4]}
    assert Layout.from_metadata(metadata) == Layout(6, 0, 8)
    assert Layout.from_metadata({"general.architecture": "x", "x.expert_count": []}) == Layout(0)
    assert Layout.from_metadata({}) == Layout(0, 0, 0)


@pytest.mark.parametrize(
    ("value", "word"),
    [
        *(("40", "whole number"), ("", "whole number"), (b"40", "whole number")),
        *((1.5, "whole number"), ([8, None], "whole number"), (-1, "negative")),
    ],
)
def test_layout_refuses_what_is_no_count(value: object, word: str) -> None:
    with pytest.raises(ModelFileError, match=rf"x\.block_count.*{word}"):
        Layout.from_metadata({"general.architecture": "x", "x.block_count": value})


def test_layout_refuses_a_head_longer_than_the_model() -> None:
    metadata = {"general.architecture": "x", "x.block_count": 2, "x.nextn_predict_layers": 3}
    with pytest.raises(ModelFileError, match=r"x\.nextn_predict_layers is 3.* 2 layers"):
        Layout.from_metadata(metadata)


def test_role_reads_as_text() -> None:
    assert [role.value for role in Role] == [
        *("routed expert", "shared expert", "attention", "ssm", "dense ffn"),
        *("mtp", "embedding", "output", "other"),
    ]
