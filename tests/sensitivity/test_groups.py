"""Which tensors are measured together."""

from __future__ import annotations

import pytest
from support import qwen35_35b
from support.architectures import ModelSpec, architectures

from apex.errors import UsageError
from apex.policy import Layout
from apex.sensitivity import DETAILS, KINDS, Group, groups_of, kind_of

MODELS = architectures()


def matrices(spec: ModelSpec) -> list[str]:
    return [tensor.name for tensor in spec.tensors if len(tensor.shape) > 1]


def layout_of(spec: ModelSpec) -> Layout:
    return Layout.from_metadata({"general.architecture": spec.architecture, **spec.metadata})


def contents(groups: tuple[Group, ...], layer: int | None) -> dict[str, set[str]]:
    """By the kinds of one layer, the tensors in short."""
    return {
        group.kind: {name.removeprefix(f"blk.{layer}.").removesuffix(".weight") for name in names}
        for group in groups
        if group.layer == layer
        for names in [group.tensors]
    }


@pytest.mark.parametrize("detail", DETAILS)
@pytest.mark.parametrize("architecture", MODELS)
def test_every_tensor_is_in_one_group_of_a_name_of_its_own(architecture: str, detail: str) -> None:
    spec = MODELS[architecture]
    names = matrices(spec)
    groups = groups_of(names, layout_of(spec), detail)
    assert sorted(name for group in groups for name in group.tensors) == sorted(names)
    assert len({group.name for group in groups}) == len(groups)
    assert {group.kind for group in groups} <= set(KINDS)
    firsts = [names.index(group.tensors[0]) for group in groups]
    assert firsts == sorted(firsts)
    assert not any(group.probes for group in groups)


def qwen35() -> tuple[Group, ...]:
    left_out = ("_inp.weight", "_shexp.weight", "conv1d.weight")
    names = [
        name
        for name, shape, _ in qwen35_35b.tensors()
        if len(shape) > 1 and not (("inp" in name and name.endswith(left_out)) or "conv" in name)
    ]
    return groups_of(names, Layout(40, 0, 256))


def test_a_hybrid_mixture_of_experts() -> None:
    groups = qwen35()
    experts = {
        "gate, up experts": {"ffn_gate_exps", "ffn_up_exps"},
        "down experts": {"ffn_down_exps"},
        "shared experts": {"ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"},
    }
    assert contents(groups, 0) == {
        "linear attention input": {"attn_qkv", "attn_gate"},
        "linear attention output": {"ssm_out"},
        "small ssm": {"ssm_alpha", "ssm_beta"},
        **experts,
    }
    assert contents(groups, 3) == {
        "query, key": {"attn_q", "attn_k"},
        "value": {"attn_v"},
        "attention output": {"attn_output"},
        **experts,
    }
    assert [group.name for group in groups[:3]] == [
        "embedding",
        "output",
        "layer 0, gate, up experts",
    ]
    assert len(groups) == 2 + 40 * 6


def test_mla() -> None:
    layout = Layout(2, 0, 4)
    names = ["q_a", "q_b", "kv_a_mqa", "kv_b", "k_b", "v_b", "output"]
    tensors = [f"blk.0.attn_{name}.weight" for name in names]
    tensors += ["blk.0.indexer.attn_k.weight", "blk.0.indexer.proj.weight"]
    assert contents(groups_of(tensors, layout), 0) == {
        "query, key": {
            *("attn_q_a", "attn_q_b", "attn_kv_a_mqa", "attn_kv_b", "attn_k_b"),
            *("indexer.attn_k", "indexer.proj"),
        },
        "value": {"attn_v_b"},
        "attention output": {"attn_output"},
    }


def test_a_dense_model_and_finer_kinds() -> None:
    layout = Layout(2)
    tensors = [f"blk.1.{name}.weight" for name in ("ffn_gate", "ffn_up", "ffn_down", "attn_qkv")]
    assert set(contents(groups_of(tensors, layout), 1)) == {
        *("dense gate, up", "dense down", "query, key, value")
    }
    assert set(contents(groups_of(tensors, layout, "part"), 1)) == {
        *("dense gate", "dense up", "dense down", "query, key, value")
    }
    fused = ["blk.1.ffn_gate_up_exps.weight"]
    assert set(contents(groups_of(fused, layout, "part"), 1)) == {"gate, up experts"}


def test_parts_of_experts() -> None:
    parts = ("gate", "up", "down")
    tensors = [f"blk.1.ffn_{part}_{kind}.weight" for part in parts for kind in ("exps", "shexp")]
    assert contents(groups_of(tensors, Layout(2, 0, 8), "part"), 1) == {
        "gate experts": {"ffn_gate_exps"},
        "up experts": {"ffn_up_exps"},
        "down experts": {"ffn_down_exps"},
        "shared gate, up": {"ffn_gate_shexp", "ffn_up_shexp"},
        "shared down": {"ffn_down_shexp"},
    }


def test_each_tensor_by_itself() -> None:
    names = ["output.weight", "blk.1.attn_q.weight", "blk.1.attn_k.weight"]
    groups = groups_of(names, Layout(2), "tensor")
    assert [group.name for group in groups] == names
    assert [(group.kind, group.layer) for group in groups] == [
        ("output", None),
        ("query, key", 1),
        ("query, key", 1),
    ]


def test_a_layer_of_the_head_is_one_group() -> None:
    names = ["attn_q", "ffn_down_exps", "ssm_out", "nextn.eh_proj"]
    tensors = [f"blk.{layer}.{name}.weight" for layer in (1, 2) for name in names]
    groups = groups_of(tensors, Layout(3, 2, 8), "part")
    assert [(group.name, len(group.tensors)) for group in groups] == [
        ("layer 1, multi-token prediction", 4),
        ("layer 2, multi-token prediction", 4),
    ]


def test_encoder_and_decoder_layers_of_one_number_are_apart() -> None:
    names = [f"{stack}.blk.0.attn_{part}.weight" for stack in ("enc", "dec") for part in "qko"]
    groups = groups_of([*names, "dec.blk.0.cross_attn_v.weight"], Layout(1))
    assert [(group.name, len(group.tensors)) for group in groups] == [
        ("encoder layer 0, query, key", 2),
        ("encoder layer 0, attention output", 1),
        ("decoder layer 0, query, key", 2),
        ("decoder layer 0, attention output", 1),
        ("decoder layer 0, value", 1),
    ]


@pytest.mark.parametrize(
    "name, kind",
    {
        "token_embd.weight": "embedding",
        "per_layer_token_embd.weight": "embedding",
        "output.weight": "output",
        "blk.0.ffn_up.3.weight": "gate, up experts",
        "blk.0.ffn_down_chexps.weight": "down experts",
        "blk.0.attn_gate.weight": "query, key",
        "blk.0.ssm_in.weight": "linear attention input",
        "blk.0.time_mix_key.weight": "other",
        "v.blk.0.attn_q.weight": "other",
        "blk.0.": "other",
        "": "other",
    }.items(),
)
def test_kinds(name: str, kind: str) -> None:
    assert kind_of(name, Layout(2, 0, 8)) == kind


def test_another_detail() -> None:
    with pytest.raises(UsageError, match="'row'"):
        groups_of([], Layout(1), "row")
