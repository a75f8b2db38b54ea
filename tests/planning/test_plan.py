"""The plan: true sizes, reasons, and every mistake found before the first byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from support import imatrix
from support.architectures import ModelSpec, TensorSpec, architectures, write_model
from support.llama import llama_tensors, write_llama
from support.qwen35_35b import write_header

import apex
from apex.errors import ApexError, ImatrixError, ModelFileError, PlanError, UsageError
from apex.files import load_imatrix

SPEC = architectures()["qwen35moe"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "model.gguf"
    write_model(path, SPEC)
    return path


@pytest.fixture(scope="module")
def large_header(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "qwen3.5-35b-a3b.gguf"
    write_header(path)
    return path


@pytest.mark.parametrize(
    ("tier", "mebibytes"),
    [("quality", "21751.80"), ("balanced", "24151.80"), ("compact", "15762.20")],
)
def test_the_sums_of_llama_quantize_for_a_35b_model(
    large_header: Path, tier: str, mebibytes: str
) -> None:
    """Oracle: llama-quantize --dry-run with the reference's tables on the true shapes."""
    plan = apex.plan(large_header, tier=tier)
    assert len(plan.tensors) == 733
    assert f"{plan.model.bytes / 2**20:.2f}" == "66152.24"
    assert f"{plan.weights / 1e9:.2f}" == "34.66"
    assert f"{plan.tensor_bytes / 2**20:.2f}" == mebibytes
    assert not plan.notes
    assert f"{plan.tensor_bytes / 2**30:.1f}" == {"quality": "21.2", "balanced": "23.6"}.get(
        tier, "15.4"
    )


def test_a_plan_is_as_large_as_the_file(model: Path, tmp_path: Path) -> None:
    plan = apex.plan(model, tier="quality")
    result = apex.quantize(plan, tmp_path / "out.gguf")
    written = gguf.GGUFReader(tmp_path / "out.gguf")
    assert plan.file_bytes == result.bytes == (tmp_path / "out.gguf").stat().st_size
    assert plan.tensor_bytes == sum(int(tensor.n_bytes) for tensor in written.tensors)
    assert sum(total.bytes for total in plan.by_role()) == plan.tensor_bytes
    assert sum(total.tensors for total in plan.by_role()) == len(plan.tensors)
    for planned, tensor in zip(plan.tensors, written.tensors, strict=True):
        assert (planned.name, planned.type) == (tensor.name, tensor.tensor_type.name)


def test_every_tensor_has_a_reason(model: Path) -> None:
    plan = apex.plan(
        model, tier="quality", tensor_types=["ssm_out=q5_k"], edge_layers=1, near_layers=1
    )
    reasons = {tensor.name: (tensor.decided_by, tensor.reason) for tensor in plan.tensors}
    assert reasons["blk.1.ffn_up_exps.weight"] == ("tier", "quality: routed expert, near")
    assert reasons["blk.0.ssm_out.weight"] == ("override", "ssm_out=Q5_K (--tensor-type)")
    assert reasons["token_embd.weight"][0] == "file type"
    assert reasons["blk.0.attn_norm.weight"] == ("llama.cpp", "never quantized")
    fallback = next(tensor for tensor in plan.tensors if tensor.is_fallback)
    assert f"{fallback.source.columns} columns do not fit {fallback.wanted}" in fallback.reason
    assert any("fall back" in note and fallback.name in note for note in plan.notes)


def test_the_cost_of_a_fallback_by_hand(tmp_path: Path) -> None:
    tensors = llama_tensors(1)
    tensors["blk.0.ffn_down.weight"] = np.zeros((256, 96), np.float16)
    write_llama(tmp_path / "model.gguf", tensors, layers=1)
    plan = apex.plan(tmp_path / "model.gguf", file_type="Q2_K", pure=True)
    (fallback,) = plan.fallbacks
    assert (fallback.wanted, fallback.type) == ("Q2_K", "Q4_0")
    # 96 weights are 3 blocks of 18 bytes; 96 of 256 weights at 84 bytes would be 31.5.
    assert fallback.fallback_bytes == 256 * 3 * 18 - 256 * 96 * 84 // 256
    with pytest.raises(PlanError, match=r"1 tensor has rows .*ffn_down.*Q2_K -> Q4_0"):
        apex.plan(tmp_path / "model.gguf", file_type="Q2_K", pure=True, strict=True)


# What is wrong, in words; the options, the error and what its message says.
MISTAKES: dict[str, tuple[dict[str, Any], type[ApexError], str]] = {
    "neither tier nor file type": ({}, UsageError, "A tier or a file type is missing"),
    "both tier and file type": (
        {"tier": "quality", "file_type": "Q8_0"},
        UsageError,
        "one or the other",
    ),
    "misspelt tier": ({"tier": "qualty"}, UsageError, "no tier 'qualty'"),
    "i-tier without importance matrix": (
        {"tier": "i-quality"},
        ImatrixError,
        "i-quality needs an importance matrix",
    ),
    "small tier without importance matrix": (
        {"tier": "micro"},
        ImatrixError,
        "micro needs an importance matrix",
    ),
    "file type without importance matrix": ({"file_type": "IQ2_XXS"}, ImatrixError, r"IQ2_XXS\)"),
    "unknown file type": ({"file_type": "Q4_K_X"}, UsageError, "no file type Q4_K_X"),
    "widths of a file type": (
        {"file_type": "Q4_K_M", "edge_layers": 2},
        UsageError,
        "belong to a tier",
    ),
    "negative width": ({"tier": "quality", "edge_layers": -1}, UsageError, "cannot be -1"),
    "width of more layers than there are": (
        {"tier": "quality", "edge_layers": 1000},
        UsageError,
        "--edge-layers 1000 is more than the 3 layers",
    ),
    "near zone of more layers than there are": (
        {"tier": "quality", "near_layers": 4},
        UsageError,
        "--near-layers 4 is more than the 3 layers",
    ),
    "rule without a type": (
        {"file_type": "Q8_0", "tensor_types": ["attn_q"]},
        UsageError,
        "has no '='",
    ),
    "rule of an unknown type": (
        {"file_type": "Q8_0", "tensor_types": ["attn_q=Q9"]},
        UsageError,
        "no type Q9",
    ),
    "rule of a type of integers": (
        {"file_type": "Q8_0", "tensor_types": ["attn_q=I32"]},
        UsageError,
        "no type I32",
    ),
    "rule that is not a regular expression": (
        {"file_type": "Q8_0", "tensor_types": ["(=q8_0"]},
        UsageError,
        "is not a regular expression",
    ),
    "rule that matches no tensor": (
        {"file_type": "Q8_0", "tensor_types": ["nothing=q8_0"]},
        UsageError,
        r"1 pattern matches no tensor.*nothing",
    ),
    "rule without effect": (
        {"file_type": "F16", "tensor_types": ["attn_q=q8_0"]},
        UsageError,
        "no effect",
    ),
    "tensor-type file that is not there": (
        {"file_type": "Q8_0", "tensor_type_file": "/no/such"},
        UsageError,
        "cannot be read",
    ),
    "unknown type of the output tensor": (
        {"file_type": "Q8_0", "output_tensor_type": "Q7"},
        UsageError,
        "--output-tensor-type",
    ),
    "unknown type of the token embedding": (
        {"file_type": "Q8_0", "token_embedding_type": "Q7"},
        UsageError,
        "--token-embedding-type",
    ),
    "override of the alignment": (
        {"file_type": "Q8_0", "overrides": {"general.alignment": 1}},
        UsageError,
        "cannot be overridden",
    ),
    "override by a number that is too large": (
        {"file_type": "Q8_0", "overrides": {"a": 2**40}},
        UsageError,
        "does not fit 32 bits",
    ),
    "override of a key that is too long": (
        {"file_type": "Q8_0", "overrides": {"k" * 200: 1}},
        UsageError,
        "shorter than 128",
    ),
    "shards both kept and made anew": (
        {"file_type": "Q8_0", "keep_split": True, "split_max_size": 9},
        UsageError,
        "but not both",
    ),
    "shards of no size": (
        {"file_type": "Q8_0", "split_max_size": 0},
        UsageError,
        "smaller than a byte",
    ),
    "importance matrix that is not there": (
        {"file_type": "Q8_0", "imatrix": "/no/such"},
        ImatrixError,
        "cannot be read",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_with_a_hint(model: Path, mistake: str) -> None:
    options, kind, message = MISTAKES[mistake]
    with pytest.raises(kind, match=message) as caught:
        apex.plan(model, **options)
    assert caught.value.hint
    assert caught.value.message.endswith(".")


def layers_of_experts(path: Path, layers: int) -> Path:
    """A model of routed experts with so many layers."""
    write_model(
        path,
        ModelSpec(
            SPEC.architecture,
            SPEC.metadata
            | {
                f"{SPEC.architecture}.block_count": layers,
                f"{SPEC.architecture}.nextn_predict_layers": 0,
            },
            (
                TensorSpec("token_embd.weight", (8, 256), "F16"),
                *(
                    TensorSpec(f"blk.{layer}.ffn_up_exps.weight", (4, 8, 256), "F16")
                    for layer in range(layers)
                ),
            ),
        ),
    )
    return path


def test_a_short_model_has_no_middle_and_the_plan_says_so(tmp_path: Path) -> None:
    """5 + 5 layers at each end of 16 leave nothing between; 2 + 2 are the proportions of 40."""
    model = layers_of_experts(tmp_path / "model.gguf", 16)
    quality = apex.plan(model, tier="quality")
    (note,) = (note for note in quality.notes if "no middle" in note)
    assert "--edge-layers 2 --near-layers 2" in note
    assert "16 layers leave no middle" in note
    types = [tensor.type for tensor in quality.tensors if "exps" in tensor.name]
    assert "IQ4_XS" not in types
    given = apex.plan(model, tier="quality", edge_layers=2, near_layers=2)
    assert not any("no middle" in note for note in given.notes)
    assert [t.type for t in given.tensors if "exps" in t.name].count("IQ4_XS") == 16 - 8
    # balanced has one type in near and middle, and 40 layers have a middle: nothing to say.
    assert not any("no middle" in note for note in apex.plan(model, tier="balanced").notes)
    long = layers_of_experts(tmp_path / "long.gguf", 40)
    assert not any("no middle" in note for note in apex.plan(long, tier="quality").notes)


def test_an_option_that_does_not_exist(model: Path) -> None:
    with pytest.raises(TypeError, match="unknown options: teir"):
        apex.plan(model, teir="quality")


def test_an_explicit_output_type_must_fit(tmp_path: Path) -> None:
    tensors = llama_tensors(1)
    tensors["output.weight"] = np.zeros((64, 80), np.float16)
    write_llama(tmp_path / "model.gguf", tensors, layers=1)
    with pytest.raises(PlanError, match=r"output\.weight \(80 columns, Q6_K\)"):
        apex.plan(tmp_path / "model.gguf", file_type="Q8_0", output_tensor_type="Q6_K")


def test_a_recipe_of_ones_own(model: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('base = "Q8_0"\n[types]\nrouted = "Q4_0"\n')
    plan = apex.plan(model, tier=recipe)
    assert plan.tier == "mine"
    routed = [t for t in plan.tensors if t.name.endswith("_exps.weight") and t.layer == 0]
    assert {t.wanted for t in routed} == {"Q4_0"}
    recipe.write_text('base = "Q8_0"\n[types]\nrouted = "Q4_9"\n')
    with pytest.raises(UsageError, match=r"no type Q4_9 .*mine, routed expert"):
        apex.plan(model, tier=recipe)


def test_a_file_for_all_layers_of_a_hybrid(model: Path, tmp_path: Path) -> None:
    """The reference's files list attention and ssm tensors for every layer; that is no mistake."""
    tensors = tuple(
        tensor
        for tensor in SPEC.tensors
        if not (tensor.name.startswith("blk.2.") and "ssm_out" in tensor.name)
    )
    hybrid = tmp_path / "hybrid.gguf"
    write_model(hybrid, ModelSpec(SPEC.architecture, SPEC.metadata, tensors))
    file = tmp_path / "config.txt"
    file.write_text("".join(f"blk.{n}.ssm_out=Q5_K\nblk.{n}.ffn_up_exps=q4_k\n" for n in range(3)))
    plan = apex.plan(hybrid, file_type="Q6_K", tensor_type_file=file)
    assert any("blk.2.ssm_out" in note for note in plan.notes)
    for line in ("blk.9.ssm_out=Q5_K", "blk.2.ssm_uot=Q5_K"):  # no such layer, no such tensor
        file.write_text(line)
        with pytest.raises(UsageError, match="matches no tensor"):
            apex.plan(hybrid, file_type="Q6_K", tensor_type_file=file)
    with pytest.raises(UsageError, match="matches no tensor"):  # typed by hand it must match
        apex.plan(hybrid, file_type="Q6_K", tensor_types=["blk.2.ssm_out=Q5_K"])


def test_the_exported_file_names_each_tensor_once(model: Path) -> None:
    plan = apex.plan(model, tier="balanced")
    lines = plan.tensor_type_file().split()
    assert len(lines) == len(set(lines)) > 20
    assert "^blk\\.0\\.ffn_down_exps\\.weight$=q6_k" in lines


class TestImportance:
    """All that is wrong with an importance matrix is one error; what can be mapped is."""

    def plan(
        self, model: Path, tmp_path: Path, entries: dict[str, imatrix.Entry], **options: Any
    ) -> apex.Plan:
        matrix = tmp_path / "imatrix.gguf"
        imatrix.write_gguf(matrix, entries)
        return apex.plan(model, imatrix=matrix, **({"tier": "micro"} | options))

    def test_everything_wrong_at_once(self, model: Path, tmp_path: Path) -> None:
        entries = imatrix.random_imatrix(SPEC)
        missing = ["blk.0.ffn_down_exps.weight", "blk.1.ffn_down_exps.weight"]
        for name in missing:
            del entries[name]
        short, odd = "blk.0.ffn_up_shexp.weight", "blk.2.ffn_down_exps.weight"
        entries[short] = (entries[short][0][:, :7], entries[short][1])
        entries[odd][0][0, 3] = np.nan
        with pytest.raises(ImatrixError) as caught:
            self.plan(model, tmp_path, entries)
        for name in missing:
            assert f"no entry for {name}" in caught.value.message
        assert f"{short} has 7 values" in caught.value.message
        assert f"{odd} is not finite" in caught.value.message

    def test_an_imatrix_of_another_model(self, model: Path, tmp_path: Path) -> None:
        entries = {"blk.0.other.weight": (np.ones((1, 8), np.float32), np.ones(1, np.float32))}
        with pytest.raises(ImatrixError, match=r"no entry for blk\.0\.attn_gate"):
            self.plan(model, tmp_path, entries)
        matrix = tmp_path / "imatrix.gguf"
        with pytest.raises(ImatrixError, match="none of its 1 entries is for this model"):
            apex.plan(model, file_type="Q4_K_M", imatrix=matrix)

    def test_the_mtp_head_may_lack_entries(self, model: Path, tmp_path: Path) -> None:
        """Ordinary calibration does not run it."""
        entries = imatrix.random_imatrix(SPEC)
        trunk = {name: entry for name, entry in entries.items() if not name.startswith("blk.3.")}
        plan = self.plan(model, tmp_path, trunk)
        assert any("have no entry" in note and "blk.3." in note for note in plan.notes)
        head = {tensor.name for tensor in plan.tensors if tensor.layer == 3}
        assert all(tensor.importance is None for tensor in plan.tensors if tensor.name in head)

    def test_unreached_experts_are_counted_and_named(self, model: Path, tmp_path: Path) -> None:
        entries = imatrix.random_imatrix(SPEC)
        name = "blk.0.ffn_up_exps.weight"
        entries[name][1][:] = [5, 0, 5, 0]
        plan = self.plan(model, tmp_path, entries)
        assert plan.unreached_experts[name] == (1, 3)
        assert any("never reached" in note and f"{name} (2 of 4)" in note for note in plan.notes)

    @pytest.mark.parametrize(
        ("given", "wanted"),
        [("gate_up", "gate"), ("gate_up", "up"), ("up", "gate"), ("gate", "gate_up")],
    )
    def test_fused_and_split_gate_and_up(self, tmp_path: Path, given: str, wanted: str) -> None:
        name = f"blk.0.ffn_{wanted}_exps.weight"
        tensors = (
            TensorSpec(name, (4, 8, 256), "F16"),
            TensorSpec("token_embd.weight", (8, 256), "F16"),
        )
        model = tmp_path / "model.gguf"
        write_model(model, ModelSpec(SPEC.architecture, SPEC.metadata, tensors))
        entry = imatrix.random_imatrix(ModelSpec("", {}, tensors))[name]
        plan = self.plan(model, tmp_path, {f"blk.0.ffn_{given}_exps.weight": entry})
        planned = next(tensor for tensor in plan.tensors if tensor.name == name)
        assert planned.importance is not None
        expected = imatrix.as_llama({name: entry})[name].reshape(4, 256)
        assert np.array_equal(
            planned.importance.values(load_imatrix(tmp_path / "imatrix.gguf")), expected
        )
        assert any("same input" in note and name in note for note in plan.notes)

    def test_mla_halves_share_what_they_can(self, tmp_path: Path) -> None:
        """v_b has the columns of kv_b and gets its row for every head; the transposed k_b not."""
        tensors = (
            TensorSpec("blk.0.attn_k_b.weight", (4, 256, 64), "F16"),
            TensorSpec("blk.0.attn_v_b.weight", (4, 64, 256), "F16"),
            TensorSpec("token_embd.weight", (8, 256), "F16"),
        )
        model = tmp_path / "model.gguf"
        spec = architectures()["deepseek2"]
        write_model(model, ModelSpec("deepseek2", spec.metadata, tensors))
        sums, counts = np.full((1, 256), 6, np.float32), np.full(1, 2, np.float32)
        plan = self.plan(
            model, tmp_path, {"blk.0.attn_kv_b.weight": (sums, counts)}, tier="i-compact"
        )
        by_name = {tensor.name: tensor.importance for tensor in plan.tensors}
        assert by_name["blk.0.attn_k_b.weight"] is None
        v_b = by_name["blk.0.attn_v_b.weight"]
        assert v_b is not None
        assert np.array_equal(
            v_b.values(load_imatrix(tmp_path / "imatrix.gguf")), np.full((4, 256), 3, np.float32)
        )

    def test_mla_joined_from_its_half(self, tmp_path: Path) -> None:
        tensors = (
            TensorSpec("blk.0.attn_kv_b.weight", (64, 256), "F16"),
            TensorSpec("token_embd.weight", (8, 256), "F16"),
        )
        model = tmp_path / "model.gguf"
        spec = architectures()["deepseek2"]
        write_model(model, ModelSpec("deepseek2", spec.metadata, tensors))
        sums = np.stack([np.full(256, 6, np.float32), np.full(256, 2, np.float32)])
        entry = (sums, np.array([3, 1], np.float32))
        plan = self.plan(model, tmp_path, {"blk.0.attn_v_b.weight": entry}, tier="i-compact")
        importance = next(t.importance for t in plan.tensors if "kv_b" in t.name)
        assert importance is not None
        assert np.array_equal(
            importance.values(load_imatrix(tmp_path / "imatrix.gguf")),
            np.full((1, 256), 2, np.float32),
        )

    def test_a_plain_tier_with_an_imatrix_says_what_it_is(
        self, model: Path, tmp_path: Path
    ) -> None:
        plan = self.plan(model, tmp_path, imatrix.random_imatrix(SPEC), tier="quality")
        assert any("i-quality" in note for note in plan.notes)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is empty"),
            (b"hello, I am no matrix at all", "not an importance matrix, or is truncated"),
            (b"GGUF\x03\x00\x00\x00", "is damaged"),
            ((5).to_bytes(4, "little") + b"\xff\xff\xff\x7f", "truncated"),
        ],
    )
    def test_files_that_are_none(
        self, model: Path, tmp_path: Path, content: bytes, message: str
    ) -> None:
        path = tmp_path / "imatrix.dat"
        path.write_bytes(content)
        with pytest.raises(ImatrixError, match=message):
            apex.plan(model, tier="micro", imatrix=path)

    def test_a_model_is_no_imatrix(self, model: Path) -> None:
        with pytest.raises(ImatrixError, match="but not an importance matrix"):
            apex.plan(model, tier="micro", imatrix=model)

    @pytest.mark.parametrize("form", ["gguf", "dat"])
    def test_a_truncated_file(self, model: Path, tmp_path: Path, form: str) -> None:
        path = tmp_path / "imatrix"
        entries = imatrix.random_imatrix(SPEC)
        (imatrix.write_gguf if form == "gguf" else imatrix.write_dat)(path, entries)
        path.write_bytes(path.read_bytes()[:-5000])
        with pytest.raises(ImatrixError, match="truncated"):
            apex.plan(model, tier="micro", imatrix=path)


def test_shards_that_do_not_belong_together(tmp_path: Path) -> None:
    paths = write_model(tmp_path / "model.gguf", SPEC, shards=3)
    with pytest.raises(ModelFileError, match="not the model's first shard"):
        apex.open_model(paths[1])
    middle = paths[1].read_bytes()
    paths[1].unlink()
    with pytest.raises(
        ModelFileError, match=r"1 of 3 shards are missing: model-00002-of-00003\.gguf"
    ):
        apex.open_model(paths[0])
    paths[1].write_bytes(paths[2].read_bytes())
    with pytest.raises(ModelFileError, match="says that it is shard 3, its name says 2"):
        apex.open_model(paths[0])
    paths[1].write_bytes(middle)
    renamed = paths[0].rename(tmp_path / "alone.gguf")
    with pytest.raises(ModelFileError, match="one of 3 shards, but is not named like one"):
        apex.open_model(renamed)
