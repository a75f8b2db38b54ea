"""The command line with a Mixture-of-Experts model: roles, tiers, llama-quantize's options."""

from __future__ import annotations

import io
import json
import re
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from support import imatrix
from support.architectures import architectures, write_model

import apex
from apex.cli import main

SPEC = architectures()["qwen35moe"]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process, since each start of Python takes its time."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main([str(argument) for argument in arguments])
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "model.gguf"
    write_model(path, SPEC)
    return path


def test_quantize_writes_what_the_library_writes(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.gguf"
    result = run("quantize", model, output, "--profile", "quality", "--edge-layers", 1)
    assert result.returncode == 0
    assert str(output) in result.stdout
    assert "routed expert" in result.stdout
    assert "note:" in result.stderr  # about the fallbacks
    assert "error" not in result.stderr
    apex.quantize(model, tmp_path / "api.gguf", tier="quality", edge_layers=1)
    assert output.read_bytes() == (tmp_path / "api.gguf").read_bytes()


def test_the_way_of_llama_quantize(model: Path, tmp_path: Path) -> None:
    entries = imatrix.random_imatrix(SPEC)
    matrix = tmp_path / "imatrix.dat"
    imatrix.write_dat(matrix, entries)
    rules = tmp_path / "rules.txt"
    rules.write_text("ffn_down=q6_k")
    result = run(
        "quantize", model, tmp_path / "out.gguf", "--type", "q4_k_m", "--imatrix", matrix,
        "--tensor-type", "attn_q=q8_0", "--tensor-type", "attn_k=q5_k", "--tensor-type-file", rules,
        "--output-tensor-type", "q8_0", "--token-embedding-type", "q5_k",
        "--override-kv", "general.name=str:mine", "--override-kv", "a.b=int:7",
        "--override-kv", "a.c=float:0.5", "--override-kv", "a.d=bool:true",
        "--leave-output-tensor", "--threads", 2, "--max-memory", "1G", "--json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    data = json.loads(result.stdout)
    assert data["bytes"] == (tmp_path / "out.gguf").stat().st_size
    types = {tensor["name"]: tensor["type"] for tensor in data["plan"]["tensors"]}
    assert types["token_embd.weight"] == "Q5_K"
    assert data["plan"]["imatrix"] == str(matrix)
    metadata = apex.open_model(tmp_path / "out.gguf").metadata
    values = [metadata[key] for key in ("general.name", "a.b", "a.c", "a.d")]
    assert values == ["mine", 7, 0.5, True]
    assert metadata["quantize.imatrix.file"] == str(matrix)[:127]


def test_plan(model: Path, tmp_path: Path) -> None:
    export = tmp_path / "types.txt"
    result = run("plan", model, "--tier", "compact", "--tensors", "--export", export)
    assert result.returncode == 0
    assert "compact: routed expert, edge" in result.stdout
    plan = apex.plan(model, tier="compact")
    assert export.read_text() == plan.tensor_type_file()
    assert f"{plan.tensor_bytes / 2**20:,.2f}" in result.stdout
    assert "llama-quantize --tensor-type-file" in result.stderr
    assert json.loads(run("plan", model, "--tier", "compact", "--json").stdout) == plan.to_dict()


def test_all_tiers(model: Path) -> None:
    text = run("plan", model, "--all-tiers")
    assert text.returncode == 0, text.stderr
    rows = json.loads(run("plan", model, "--all-tiers", "--json").stdout)
    assert [row["tier"] for row in rows] == [tier.name for tier in apex.tiers()]
    sizes = {row["tier"]: row["tensor_bytes"] for row in rows}
    assert sizes["quality"] == apex.plan(model, tier="quality").tensor_bytes
    assert sizes["micro"] < sizes["mini"] < sizes["compact"] < sizes["quality"]
    assert all(row["tier"] in text.stdout for row in rows)


def test_inspect(model: Path) -> None:
    result = run("inspect", model, "--tensors")
    assert result.returncode == 0
    assert "arr[str]" in result.stdout
    assert "blk.0.ffn_down_exps.weight" in result.stdout
    data = json.loads(run("inspect", model, "--json").stdout)
    assert data["architecture"] == "qwen35moe"
    assert (data["layers"], data["mtp_layers"], data["experts"]) == (3, 1, 4)
    assert len(data["tensors"]) == len(SPEC.tensors)
    assert data["metadata"]["qwen35moe.block_count"] == 4


def test_verify(model: Path, tmp_path: Path) -> None:
    output, matrix = tmp_path / "out.gguf", tmp_path / "imatrix.gguf"
    imatrix.write_gguf(matrix, imatrix.random_imatrix(SPEC))
    apex.quantize(model, output, file_type="Q4_K_M")
    assert run("verify", output, model, "--tensors").returncode == 0
    result = run("verify", output, model, "--imatrix", matrix, "--json")
    report = apex.verify(output, model, imatrix=matrix)
    assert json.loads(result.stdout) == report.to_dict()
    result = run("verify", model, output, "--quiet")
    assert (result.returncode, result.stdout) == (0, "")


_TO_Q8_0 = ("quantize", "{model}", "{out}", "--type", "Q8_0")
_TO_TIER = ("quantize", "{model}", "{out}", "--tier")
ERRORS = {
    "neither tier nor type": (("quantize", "{model}", "{out}"), 2, "A tier or a file type"),
    "no output": (("quantize", "{model}"), 2, "name of the output is missing"),
    "unknown option": ((*_TO_TIER, "quality", "--bogus"), 2, "--bogus"),
    "unknown command": (("frobnicate",), 2, "frobnicate"),
    "memory that is not a size": ((*_TO_Q8_0, "--max-memory", "much"), 2, "is not a size"),
    "override without a type": ((*_TO_Q8_0, "--override-kv", "a=b"), 2, "KEY=TYPE:VALUE"),
    "no model": (("quantize", "/no/such", "{out}", "--tier", "quality"), 3, "No such file"),
    "no importance matrix": ((*_TO_TIER, "micro"), 4, "needs an importance matrix"),
    "fallback where none may be": ((*_TO_TIER, "quality", "--strict"), 5, "fall back"),
    "output over input": (("quantize", "{model}", "{model}", "--type", "Q8_0"), 6, "input itself"),
    "all tiers and one": (("plan", "{model}", "--all-tiers", "--tier", "mini"), 2, "--all-tiers"),
    "nothing to verify with": (("verify", "{model}", "/no/such"), 3, "No such file"),
    "unknown tier": (("tiers", "golden"), 2, "no tier 'golden'"),
}


@pytest.mark.parametrize(("arguments", "status", "message"), ERRORS.values(), ids=ERRORS)
def test_an_error_is_a_sentence_a_hint_and_a_status(
    model: Path, tmp_path: Path, arguments: tuple[str, ...], status: int, message: str
) -> None:
    names = {"model": model, "out": tmp_path / "out.gguf"}
    result = run(*(argument.format(**names) for argument in arguments))
    assert result.returncode == status
    assert result.stdout == ""
    assert message in result.stderr
    assert re.fullmatch(r"(note: .+\n)*error: .+\nhint: .+\n", result.stderr)
    assert list(tmp_path.iterdir()) == []
