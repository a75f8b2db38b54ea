"""The command line: data on stdout, the rest on stderr, exit statuses, never a traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import imatrix
from support.architectures import architectures, write_model
from support.llama import grow, llama_tensors, write_llama

import apex

SPEC = architectures()["qwen35moe"]


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "apex", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},
    )


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


def test_dry_run_and_quiet(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.gguf"
    result = run("quantize", model, output, "--type", "Q8_0", "--dry-run", "--json")
    assert json.loads(result.stdout)["file_type"] == "Q8_0"
    assert not output.exists()
    result = run("quantize", model, output, "--type", "Q8_0", "--quiet")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert output.exists()


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


def test_tiers_can_be_copied_and_changed(model: Path, tmp_path: Path) -> None:
    listing = run("tiers").stdout
    assert all(tier.name in listing for tier in apex.tiers())
    for name in ("quality", "i-quality"):
        recipe = tmp_path / f"{name}.toml"
        recipe.write_text(run("tiers", name).stdout)
        copied, built_in = apex.load_recipe(recipe), apex.load_recipe(name)
        assert (copied.types, copied.importance) == (built_in.types, built_in.importance)


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


def test_inspect_shows_other_gguf_files_too(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    imatrix.write_gguf(path, imatrix.random_imatrix(SPEC))
    result = run("inspect", path)
    assert result.returncode == 0, result.stderr
    assert "imatrix.chunk_count" in result.stdout


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
    assert result.stderr.count("error:") == 1
    assert "hint:" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_bug_is_reported_without_a_traceback(model: Path, tmp_path: Path) -> None:
    code = (
        "import sys, apex, apex.cli\n"
        "def broken(*a, **k): raise KeyError('oops')\n"
        "apex.plan = broken\n"
        "sys.exit(apex.cli.main(['plan', sys.argv[1], '--tier', 'quality']))\n"
    )
    command = [sys.executable, "-c", code, str(model)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 70
    assert "internal error: KeyError" in result.stderr
    assert "Traceback" not in result.stderr
    shown = {**os.environ, "APEX_TRACEBACK": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=shown)
    assert "Traceback" in result.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruption(tmp_path: Path, number: signal.Signals, status: int) -> None:

    small, source = tmp_path / "small.gguf", tmp_path / "model.gguf"
    write_llama(small, llama_tensors(1), layers=1)
    grow(small, source, rows=2_000_000)
    output = tmp_path / "out.gguf"
    command = [sys.executable, "-m", "apex", "quantize", source, output, "--type", "Q2_K"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        partial = tmp_path / "out.gguf.partial"
        for _ in range(1000):
            if partial.exists() and partial.stat().st_size > 1 << 20:
                break
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert "nothing was left behind" in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf", "small.gguf"]


def test_no_colour_without_a_terminal(model: Path) -> None:
    for environment in ({}, {"NO_COLOR": "1", "FORCE_COLOR": ""}):
        result = run("plan", model, "--tier", "quality", **environment)
        assert "\x1b[" not in result.stdout + result.stderr


def test_help_and_version() -> None:
    text = run("--help").stdout
    for command in ("quantize", "plan", "tiers", "inspect", "verify", "demo"):
        assert command in text
        assert run(command, "--help").returncode == 0
    assert "130 interrupted" in " ".join(text.split())
    assert run("--version").stdout.startswith(f"apex {apex.__version__} (llama.cpp ")
    assert run().stdout == text


def test_a_reader_that_goes_away(model: Path) -> None:
    command = f"{sys.executable} -m apex inspect {model} --tensors | head -1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert result.stderr == ""
