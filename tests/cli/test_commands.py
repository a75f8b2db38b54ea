"""Every command: what it writes, on which stream, and that its numbers are the library's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import gguf
import numpy as np
import pytest
from support import moments
from support.commands import Apex
from support.llama import llama_tensors, write_llama

import apex
from apex import _core
from apex.policy import Role

MIB = 2**20


def ggml_types(path: Path) -> dict[str, str]:
    """Name to type, read by another reader than ours."""
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


def field(path: Path, key: str) -> object:
    return gguf.GGUFReader(path).fields[key].contents()


# quantize


def test_quantize_writes_what_the_library_writes(
    apex_cli: Apex, dense_model: Path, folder: Path
) -> None:
    result = apex_cli("quantize", dense_model, "out.gguf", "--tier", "balanced", "--backend", "cpu")
    assert result.returncode == 0
    apex.quantize(dense_model, folder / "same.gguf", tier="balanced")
    assert (folder / "out.gguf").read_bytes() == (folder / "same.gguf").read_bytes()
    size = (folder / "out.gguf").stat().st_size
    assert f"wrote out.gguf, {size / MIB:,.2f} MiB" in result.stdout
    assert re.search(r"reading [\d.]+ s, quantizing [\d.]+ s, writing [\d.]+ s", result.stdout)


def test_every_option_of_quantize_reaches_the_plan(
    apex_cli: Apex, dense_model: Path, imatrix: Path, folder: Path
) -> None:
    (folder / "rules.txt").write_text("# ours\nattn_k=q5_0\n")
    result = apex_cli(
        "quantize", dense_model, "new/out.gguf", "--profile", "i-quality", "--imatrix", imatrix,
        "--edge-layers", "0", "--near-layers", "0", "--tensor-type", "attn_q=q4_0",
        "--tensor-type", "attn_v=q4_1", "--tensor-type-file", "rules.txt",
        "--output-tensor-type", "q5_1", "--token-embedding-type", "q8_0",
        "--override-kv", "llama.context_length=int:77", "--override-kv", "a.flag=bool:true",
        "--override-kv", "a.text=str:x=y:z", "--override-kv", "a.half=float:0.5",
        "--threads", "1", "--max-memory", "300M",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    output = folder / "new" / "out.gguf"
    types = ggml_types(output)
    assert types["blk.0.attn_q.weight"] == "Q4_0"
    assert types["blk.1.attn_v.weight"] == "Q4_1"
    assert types["blk.1.attn_k.weight"] == "Q5_0"
    assert types["output.weight"] == "Q5_1"
    assert types["token_embd.weight"] == "Q8_0"
    assert field(output, "llama.context_length") == 77
    assert field(output, "a.flag") is True
    assert field(output, "a.text") == "x=y:z"
    assert field(output, "a.half") == 0.5
    assert field(output, "quantize.imatrix.file") == str(imatrix)[:127]


def test_unshrunk_from_plan_to_verify(apex_cli: Apex, dense_model: Path, imatrix: Path) -> None:
    options = ("--type", "Q2_K", "--imatrix", imatrix, "--rounding", "unshrunk")
    shown = apex_cli("plan", dense_model, *options, "--tensors")
    assert "dense.gguf as Q2_K, unshrunk" in shown.stdout
    assert re.search(r"blk\.0\.ffn_up\.weight .*; unshrunk$", shown.stdout, re.M)
    assert re.search(r"^note: Of \d+ tensors to quantize, \d+ will be unshrunk", shown.stderr, re.M)
    written = apex_cli("quantize", dense_model, "out.gguf", *options, "--verify")
    assert written.returncode == 0, written.stderr
    assert "dense.gguf as Q2_K, unshrunk" in written.stdout
    assert "rounding: unshrunk" in written.stdout
    assert json.loads(apex_cli("verify", "out.gguf", dense_model, "--json").stdout)["rounding"] == (
        "unshrunk"
    )
    assert ", unshrunk" in apex_cli("inspect", "out.gguf").stdout
    plain = apex_cli("verify", dense_model, dense_model)
    assert "rounding" not in plain.stdout


def test_unshrunk_needs_an_importance_matrix(apex_cli: Apex, dense_model: Path) -> None:
    options = (dense_model, "out.gguf", "--type", "Q2_K", "--rounding", "unshrunk")
    refused = apex_cli("quantize", *options)
    assert refused.returncode == 4
    assert "The rounding unshrunk needs an importance matrix" in refused.stderr
    assert "--imatrix" in refused.stderr
    misspelt = apex_cli("quantize", *options[:-1], "unshrank")
    assert misspelt.returncode == 2
    assert "did you mean unshrunk?" in misspelt.stderr


def test_beside_others_a_plain_tier_is_the_reference(
    apex_cli: Apex, dense_model: Path, imatrix: Path, folder: Path
) -> None:
    """It goes without the importance matrix, too."""
    options = ("--tier", "compact", "--tier", "i-compact", "--tensor-type", "ffn_up=q2_k")
    options += ("--imatrix", imatrix, "--rounding", "unshrunk")
    result = apex_cli("quantize", dense_model, "-o", "all", *options)
    assert result.returncode == 0, result.stderr
    plain, other = (
        apex.open_model(folder / "all" / f"dense-APEX-{name}.gguf").metadata
        for name in ("Compact", "I-Compact")
    )
    assert "quantize.rounding" not in plain
    assert other["quantize.rounding"] == "unshrunk"


def test_file_types_pure_and_requantizing(apex_cli: Apex, dense_model: Path, folder: Path) -> None:
    assert apex_cli("quantize", dense_model, "q.gguf", "--type", "q4_k", "--pure").returncode == 0
    matrices = {t for name, t in ggml_types(folder / "q.gguf").items() if "norm" not in name}
    assert matrices == {"Q4_K"}
    again = ("quantize", "q.gguf", "again.gguf", "--type", "Q3_K_M")
    refused = apex_cli(*again)
    assert refused.returncode == 5
    assert "--allow-requantize" in refused.stderr
    assert apex_cli(*again, "--allow-requantize", "--leave-output-tensor").returncode == 0
    assert ggml_types(folder / "again.gguf")["output.weight"] == "Q4_K"


def test_shards_are_cut_at_powers_of_1000(apex_cli: Apex, dense_model: Path, folder: Path) -> None:
    result = apex_cli("quantize", dense_model, "s.gguf", "--type", "Q8_0", "--split-max-size", "1M")
    assert result.returncode == 0
    shards = sorted(folder.glob("s-*.gguf"))
    assert len(shards) > 1
    assert result.stdout.count("wrote s-0000") == len(shards)
    data = [sum(t.n_bytes for t in gguf.GGUFReader(path).tensors) for path in shards]
    assert max(data) <= 1_000_000
    # The next shard's first tensor did not fit, and 1 MiB would have had room for one of them.
    firsts = [int(gguf.GGUFReader(path).tensors[0].n_bytes) for path in shards[1:]]
    assert all(size + first > 1_000_000 for size, first in zip(data, firsts, strict=False))
    kept = apex_cli("quantize", shards[0], "k.gguf", "--type", "COPY", "--keep-split")
    assert kept.returncode == 0
    assert len(sorted(folder.glob("k-*.gguf"))) == len(shards)


def test_json_of_quantize(apex_cli: Apex, dense_model: Path, folder: Path) -> None:
    result = apex_cli("quantize", dense_model, "out.gguf", "--tier", "compact", "--json")
    data = json.loads(result.stdout)
    assert data["paths"] == ["out.gguf"]
    assert data["bytes"] == (folder / "out.gguf").stat().st_size == data["plan"]["file_bytes"]
    stages = {"total", "preparing", "reading", "quantizing", "writing", "syncing"}
    assert set(data["seconds"]) == stages | {"copying_in", "computing", "copying_out"}
    assert data["seconds"]["total"] > 0


def test_quiet_says_nothing_but_errors(apex_cli: Apex, dense_model: Path, imatrix: Path) -> None:
    command = ("quantize", dense_model, "out.gguf", "--tier", "quality", "--imatrix", imatrix, "-q")
    result = apex_cli(*command)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    result = apex_cli(*command)
    assert (result.returncode, result.stdout) == (6, "")
    assert result.stderr.startswith("error: out.gguf exists already\nhint: ")
    assert apex_cli(*command, "--overwrite").returncode == 0


def test_notes_go_to_stderr(apex_cli: Apex, dense_model: Path, imatrix: Path) -> None:
    for extra in ((), ("--dry-run",), ("--json",)):
        result = apex_cli(
            "quantize", dense_model, "out.gguf", "--tier", "quality", "--imatrix", imatrix,
            "--overwrite", *extra,
        )  # fmt: skip
        assert result.returncode == 0
        assert re.search(r"^note: quality is used with an importance matrix", result.stderr, re.M)
        assert "note:" not in result.stdout


def test_a_dry_run_checks_and_writes_nothing(
    apex_cli: Apex, dense_model: Path, folder: Path
) -> None:
    result = apex_cli("quantize", dense_model, "new/out.gguf", "--tier", "quality", "--dry-run")
    assert result.returncode == 0
    assert "output: " in result.stdout
    assert list(folder.iterdir()) == []
    data = json.loads(
        apex_cli("quantize", dense_model, "o", "--type", "Q8_0", "--dry-run", "--json").stdout
    )
    assert data == apex.plan(dense_model, file_type="Q8_0").to_dict()
    (folder / "there.gguf").write_bytes(b"x")
    command = ("quantize", dense_model, "there.gguf", "--tier", "quality", "--dry-run")
    assert apex_cli(*command).returncode == 6
    assert apex_cli(*command, "--overwrite").returncode == 0
    assert (folder / "there.gguf").read_bytes() == b"x"


# plan


def test_plan_shows_roles_and_sizes(apex_cli: Apex, dense_model: Path) -> None:
    result = apex_cli("plan", dense_model, "--tier", "compact")
    todo = apex.plan(dense_model, tier="compact")
    assert result.stderr == ""
    for total in todo.by_role():
        sizes = f"{total.source_bytes / MIB:.2f} MiB +{total.bytes / MIB:.2f} MiB"
        numbers = f"{total.tensors} +{sizes}"
        line = rf"^{total.role.value} +{', '.join(total.types)} +{numbers} "
        assert re.search(line, result.stdout, re.M), total
    assert f"output: {todo.file_bytes / MIB:.2f} MiB\n" in result.stdout


def test_plan_lists_every_tensor(apex_cli: Apex, dense_model: Path) -> None:
    result = apex_cli("plan", dense_model, "--tier", "compact", "--tensors")
    for tensor in apex.plan(dense_model, tier="compact").tensors:
        shape = " x ".join(map(str, tensor.source.shape))
        line = (
            rf"^{re.escape(tensor.name)} +{shape} +{tensor.source.type} +{tensor.type} "
            rf"+{tensor.bytes / MIB:.2f} MiB +{re.escape(tensor.reason)}$"
        )
        assert re.search(line, result.stdout, re.M), tensor.name


def test_plan_as_json(apex_cli: Apex, dense_model: Path) -> None:
    result = apex_cli("plan", dense_model, "--tier", "compact", "--json")
    assert json.loads(result.stdout) == apex.plan(dense_model, tier="compact").to_dict()


def test_plan_of_a_header_alone(apex_cli: Apex, dense_model: Path, folder: Path) -> None:
    header = folder / "header.gguf"
    size = _core.Header.read(str(dense_model)).data_offset
    header.write_bytes(dense_model.read_bytes()[:size])
    assert "output: " in apex_cli("plan", header, "--tier", "compact").stdout
    refused = apex_cli("quantize", header, "out.gguf", "--tier", "compact", "--dry-run")
    assert refused.returncode == 3
    assert "truncated" in refused.stderr


def test_all_tiers_are_sized_without_importance(apex_cli: Apex, dense_model: Path) -> None:
    text = apex_cli("plan", dense_model)
    assert text.stdout == apex_cli("plan", dense_model, "--all-tiers").stdout
    data = json.loads(apex_cli("plan", dense_model, "--all-tiers", "--json").stdout)
    assert text.returncode == 0
    assert [row["tier"] for row in data] == [recipe.name for recipe in apex.tiers()]
    for row, recipe in zip(data, apex.tiers(), strict=True):
        todo = apex.plan(dense_model, tier=recipe.name, sizes_only=True)
        assert row["file_bytes"] == todo.file_bytes
        needed = "needed" if recipe.importance == "required" else "no"
        size = f"{todo.file_bytes / MIB:.2f}"
        assert re.search(
            rf"^{recipe.name} +{size} MiB .* {recipe.base} +{needed}$", text.stdout, re.M
        ), recipe.name


def test_a_tier_is_sized_without_the_importance_it_needs(
    apex_cli: Apex, dense_model: Path, folder: Path
) -> None:
    result = apex_cli("plan", dense_model, "--tier", "mini")
    assert result.returncode == 0
    size = apex.plan(dense_model, tier="mini", sizes_only=True).file_bytes
    assert f"output: {size / MIB:.2f} MiB\n" in result.stdout
    assert re.search("^note: .*needs an importance matrix.*--imatrix auto", result.stderr, re.M)
    # What cannot be carried out is not exported, and a matrix that was named is not passed over.
    for option in (("--export", "types.txt"), ("--imatrix", "none.gguf")):
        assert apex_cli("plan", dense_model, "--tier", "mini", *option).returncode == 4
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("option", [["--tier", "mini"], ["--export", "x"], ["--tensors"]])
def test_all_tiers_goes_alone(apex_cli: Apex, dense_model: Path, option: list[str]) -> None:
    result = apex_cli("plan", dense_model, "--all-tiers", *option)
    assert (result.returncode, result.stdout) == (2, "")


@pytest.fixture
def odd_model(folder: Path) -> Path:
    """One matrix whose rows are whole blocks of 32 only."""
    tensors = llama_tensors()
    tensors["blk.0.ffn_down.weight"] = np.ones((256, 96), np.float16)
    write_llama(folder / "odd.gguf", tensors)
    return folder / "odd.gguf"


def test_fallbacks_are_shown_with_their_cost(apex_cli: Apex, odd_model: Path) -> None:
    result = apex_cli("plan", odd_model, "--type", "Q4_K_M")
    (fallback,) = apex.plan(odd_model, file_type="Q4_K_M").fallbacks
    cost = f"{fallback.fallback_bytes / MIB:.2f}"
    line = rf"^dense ffn +96 +{fallback.wanted} +{fallback.type} +1 +{cost} MiB$"
    assert "\n\nFallbacks: " in result.stdout
    assert re.search(line, result.stdout, re.M)
    assert "note: 1 tensor have rows" in result.stderr or "note: 1 tensor" in result.stderr
    strict = apex_cli("plan", odd_model, "--type", "Q4_K_M", "--strict")
    assert strict.returncode == 5
    assert "blk.0.ffn_down.weight" in strict.stderr


def test_an_export_makes_the_same_types_again(
    apex_cli: Apex, dense_model: Path, folder: Path
) -> None:
    result = apex_cli("plan", dense_model, "--tier", "compact", "--export", "types.txt", "--json")
    assert "llama-quantize --tensor-type-file types.txt MODEL OUT Q4_K_M" in result.stderr
    plan = json.loads(result.stdout)
    again = apex.plan(dense_model, file_type="Q4_K_M", tensor_type_file=folder / "types.txt")
    assert [tensor["type"] for tensor in plan["tensors"]] == [t.type for t in again.tensors]


def test_an_export_never_overwrites(apex_cli: Apex, dense_model: Path, folder: Path) -> None:
    model = folder / "model.gguf"
    model.write_bytes(dense_model.read_bytes())
    assert apex_cli("plan", model, "--tier", "compact", "--export", model).returncode == 6
    assert model.read_bytes() == dense_model.read_bytes()
    nothing = apex_cli("plan", model, "--type", "COPY", "--export", "types.txt")
    assert nothing.returncode == 2
    assert not (folder / "types.txt").exists()


# tiers


def test_tiers_are_listed(apex_cli: Apex) -> None:
    lines = apex_cli("tiers").stdout.splitlines()
    for recipe in apex.tiers():
        (line,) = [line for line in lines if line.startswith(f"{recipe.name} ")]
        assert (
            " / ".join(recipe.types[Role.ROUTED].values()) in line
            or len(set(recipe.types[Role.ROUTED].values())) == 1
        )
        assert recipe.base in line
        # The table has one column for these.
        assert recipe.types[Role.SHARED] == recipe.types[Role.DENSE]
        assert recipe.types[Role.ATTENTION] == recipe.types[Role.SSM]


@pytest.mark.parametrize("name", ["quality", "i-balanced", "nano", "I-Micro"])
def test_a_tier_is_printed_as_a_recipe(
    apex_cli: Apex, dense_model: Path, folder: Path, name: str
) -> None:
    result = apex_cli("tiers", name)
    (folder / "mine.toml").write_text(result.stdout)
    ours, tier = apex.load_recipe(folder / "mine.toml"), apex.load_recipe(name)
    assert (ours.types, ours.base, ours.importance) == (tier.types, tier.base, tier.importance)
    if ours.importance == "none":
        assert apex_cli("plan", dense_model, "--tier", "mine.toml").returncode == 0


# inspect


def test_inspect_shows_types_and_metadata(apex_cli: Apex, dense_model: Path) -> None:
    result = apex_cli("inspect", dense_model, "--tensors")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(r"^llama\.embedding_length +u32 +256$", result.stdout, re.M)
    assert re.search(r"^blk\.1\.ffn_down\.weight +dense ffn +512 x 256 +F16 ", result.stdout, re.M)
    assert "dense.gguf: llama, 2 layers" in result.stdout
    data = json.loads(apex_cli("inspect", dense_model, "--json").stdout)
    assert data["weights"] == sum(array.size for array in llama_tensors().values())
    assert data["metadata"]["llama.block_count"] == data["layers"] == 2
    roles = {tensor["name"]: tensor["role"] for tensor in data["tensors"]}
    assert roles["blk.0.attn_q.weight"] == "attention"


def write_gguf_file(path: Path, architecture: str, tensors: int, **metadata: object) -> None:
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        name = key.replace("__", ".")
        if isinstance(value, list):
            writer.add_array(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, int):
            writer.add_uint16(name, value)
        else:
            writer.add_string(name, str(value))
    for number in range(tensors):
        writer.add_tensor(f"v.blk.{number}.attn_q.weight", np.ones((4, 8), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    ("architecture", "tensors", "metadata"),
    [
        ("clip", 2, {"general__type": "mmproj"}),
        ("something-new", 2, {}),
        ("llama", 0, {"tokenizer__ggml__tokens": ["a", "b"]}),
        ("llama", 2, {"split__no": 0, "split__count": 3}),
    ],
    ids=["projector", "unknown architecture", "vocabulary", "lone shard"],
)
def test_inspect_takes_any_gguf_file(
    apex_cli: Apex, folder: Path, architecture: str, tensors: int, metadata: dict[str, object]
) -> None:
    path = folder / "any-00001-of-00003.gguf"
    write_gguf_file(path, architecture, tensors, **metadata)
    result = apex_cli("inspect", path, "--tensors")
    assert result.returncode == 0, result.stderr
    assert re.search(rf"^all +{tensors} +{32 * tensors} ", result.stdout, re.M)
    data = json.loads(apex_cli("inspect", path, "--json").stdout)
    assert [tensor["role"] for tensor in data["tensors"]] == [None] * tensors


def test_inspect_takes_an_importance_matrix(apex_cli: Apex, imatrix: Path) -> None:
    result = apex_cli("inspect", imatrix)
    assert result.returncode == 0
    assert "imatrix.gguf: imatrix" in result.stdout
    assert "imatrix.chunk_count" in result.stdout


def test_inspect_shortens_and_escapes(apex_cli: Apex, folder: Path) -> None:
    path = folder / "odd.gguf"
    words = [f"word{number}" for number in range(1000)]
    write_gguf_file(
        path,
        "clip",
        1,
        general__name="red \x1b[31m alert\n" + "x" * 500,
        words=words,
        nothing=float("nan"),
    )
    result = apex_cli("inspect", path)
    assert "word5, … (1000)" in result.stdout
    assert "word6" not in result.stdout
    assert "\x1b" not in result.stdout
    assert r"red \x1b[31m alert\n" in result.stdout
    assert "x" * 100 not in result.stdout
    text = apex_cli("inspect", path, "--json").stdout
    data = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert data["metadata"]["words"] == words
    assert data["metadata"]["nothing"] is None


def test_quantize_verifies_what_it_wrote(
    apex_cli: Apex, dense_model: Path, imatrix: Path, folder: Path
) -> None:
    command = ("quantize", dense_model, "out.gguf", "--tier", "i-quality", "--imatrix", imatrix)
    result = apex_cli(*command, "--verify")
    assert result.returncode == 0, result.stderr
    table = apex_cli("verify", "out.gguf", dense_model, "--imatrix", imatrix).stdout
    assert "weighted RMSE" in table
    assert result.stdout.endswith("\n\n" + table)
    data = json.loads(apex_cli(*command, "--verify", "--json", "--overwrite").stdout)
    report = apex.verify(folder / "out.gguf", dense_model, imatrix=imatrix)
    assert data["verification"] == report.to_dict()


def test_errors_of_outputs_are_shown(
    apex_cli: Apex, dense_model: Path, imatrix: Path, folder: Path
) -> None:
    name = "blk.1.ffn_up.weight"
    tensor = next(each for each in apex.open_model(dense_model).tensors if each.name == name)
    inputs = np.random.default_rng(2).standard_normal((300, tensor.columns))
    moments.write_moments(folder / "moments.gguf", {name: moments.entry_of([inputs])})
    given = ("--imatrix", imatrix, "--second-moments", "moments.gguf")
    command = ("quantize", dense_model, "out.gguf", "--type", "Q3_K_S", *given)
    written = apex_cli(*command, "--rounding", "compensated", "--verify")
    assert written.returncode == 0, written.stderr
    shown = apex_cli("verify", "out.gguf", dense_model, *given, "--tensors").stdout
    report = apex.verify(folder / "out.gguf", dense_model, second_moments=folder / "moments.gguf")
    error = f"{report.output_rmse:.5f}"
    assert f"\noutput RMSE of all tensors with second moments: {error}\n" in written.stdout
    assert f"\noutput RMSE of all tensors with second moments: {error}\n" in shown
    assert re.search(rf"^blk\.1\.ffn_up\.weight +Q3_K +\S+ +\S+ +{error} ", shown, re.M)
    data = json.loads(apex_cli("verify", "out.gguf", dense_model, *given[2:], "--json").stdout)
    assert data == report.to_dict()
    assert {each["name"] for each in data["tensors"] if each["output_rmse"] is not None} == {name}


def test_verify_refuses_second_moments_of_another_model(
    apex_cli: Apex, dense_model: Path, folder: Path
) -> None:
    entry = moments.entry_of([np.ones((2, 3))])
    moments.write_moments(folder / "moments.gguf", {"blk.1.ffn_up.weight": entry})
    result = apex_cli("verify", dense_model, dense_model, "--second-moments", "moments.gguf")
    assert result.returncode == 4
    assert "moments.gguf does not fit the model: blk.1.ffn_up.weight has" in result.stderr
    assert "second moments of this very model" in result.stderr


# verify


def test_verify_prints_the_report(apex_cli: Apex, dense_model: Path, imatrix: Path) -> None:
    apex_cli("quantize", dense_model, "out.gguf", "--type", "Q4_K_M")
    command = ("verify", "out.gguf", dense_model)
    plain = apex_cli(*command, "--tensors")
    assert plain.returncode == 0
    assert re.search(r"^attention +\d+ +0\.\d{5} +0\.\d{5} +blk\.", plain.stdout, re.M)
    assert re.search(r"^blk\.0\.attn_q\.weight +Q4_K +0\.", plain.stdout, re.M)
    assert "weighted" not in plain.stdout
    weighted = apex_cli(*command, "--imatrix", imatrix, "--json")
    data = json.loads(weighted.stdout)
    assert weighted.stderr == ""
    assert data["bad_values"] == 0
    assert any(tensor["weighted_rmse"] for tensor in data["tensors"])


def test_verify_ends_with_7_where_weights_are_broken(
    apex_cli: Apex, dense_model: Path, folder: Path
) -> None:
    apex_cli("quantize", dense_model, "out.gguf", "--type", "F16")
    path = folder / "out.gguf"
    offset = apex.open_model(path).offsets["output.weight"]
    data = bytearray(path.read_bytes())
    data[offset : offset + 4] = np.array([np.nan, np.inf], "<f2").tobytes()
    path.write_bytes(data)
    result = apex_cli("verify", path, dense_model, "--json")
    assert result.returncode == 7
    assert json.loads(result.stdout)["bad_values"] == 2
    assert "2 weights that are NaN or infinite" in result.stderr
    assert apex_cli("verify", path, dense_model, "-q").returncode == 7


# demo


def test_demo_ends_with_the_next_steps_(apex_cli: Apex, folder: Path) -> None:
    result = apex_cli("demo")
    assert result.returncode == 0, result.stderr
    same = re.search(r"the same (\d+)% of the time, mean KL divergence ([\d.]+)", result.stdout)
    assert same is not None
    assert float(same[2]) < 0.1
    named = re.findall(r"^  apex (\w+)", result.stdout, re.MULTILINE)
    assert named == ["plan", "quantize", "verify", "measure", "quantize"]


def test_demo_leaves_two_files_and_can_be_repeated(apex_cli: Apex, folder: Path) -> None:
    for _ in range(2):
        assert apex_cli("demo", "here", "--tier", "Compact").returncode == 0
    names = sorted(path.name for path in (folder / "here").iterdir())
    assert names == ["demo-compact.gguf", "demo-f16.gguf"]


def test_demo_has_no_importance_matrix(apex_cli: Apex, folder: Path) -> None:
    result = apex_cli("demo", "--tier", "nano")
    assert result.returncode == 2
    assert list(folder.iterdir()) == []


def test_version(apex_cli: Apex) -> None:
    text = apex_cli("--version").stdout
    expected = (apex.__version__, _core.llama_version, _core.ggml_version)
    assert text == "apex {} (llama.cpp {}, ggml {})\n".format(*expected)
