"""``apex convert``, and a Hugging Face folder in the place of a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.commands import Apex
from support.huggingface import name_of

import apex

pytest.importorskip("torch", reason="apex-quant[hf] is not installed")
pytest.importorskip("transformers", reason="apex-quant[hf] is not installed")
pytestmark = pytest.mark.xdist_group("huggingface")


def test_convert_writes_upstreams_file(apex_cli: Apex, llama_folder: Path, folder: Path) -> None:
    result = apex_cli("convert", llama_folder / "llama", "-o", "new/out.gguf", "--outtype", "f16")
    assert result.returncode == 0, result.stderr
    expected = (llama_folder / name_of("llama", ("--outtype", "f16"))).read_bytes()
    assert (folder / "new" / "out.gguf").read_bytes() == expected
    assert "wrote new/out.gguf, " in result.stdout
    assert "llama, 21 tensors, 112,960 weights" in result.stdout
    assert result.stderr == ""


@pytest.mark.slow
def test_convert_as_json(apex_cli: Apex, llama_folder: Path, folder: Path) -> None:
    result = apex_cli("convert", llama_folder / "llama", "-o", "out.gguf", "--json")
    data = json.loads(result.stdout)
    assert data["path"] == "out.gguf"
    assert data["bytes"] == (folder / "out.gguf").stat().st_size
    again = apex_cli("convert", llama_folder / "llama", "-o", "out.gguf", "--json")
    assert (again.returncode, again.stdout) == (6, "")
    assert "out.gguf exists already" in again.stderr
    again = apex_cli("convert", llama_folder / "llama", "-o", "out.gguf", "-q", "--overwrite")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


@pytest.mark.slow
def test_commands_take_the_folder(apex_cli: Apex, llama_folder: Path, folder: Path) -> None:
    model = llama_folder / "llama"
    file = llama_folder / name_of("llama", ())
    ours = apex_cli("inspect", model, "--tensors").stdout.splitlines()
    theirs = apex_cli("inspect", file, "--tensors").stdout.splitlines()
    assert [line for line in ours if line not in theirs] == ["llama: llama, 2 layers, as converted"]
    result = apex_cli("plan", model)
    assert "as every tier" in result.stdout
    arguments = ("--tier", "balanced", "--verify", "--backend", "cpu")
    result = apex_cli("quantize", model, "out.gguf", *arguments)
    assert result.returncode == 0, result.stderr
    apex.quantize(file, folder / "same.gguf", tier="balanced")
    assert (folder / "out.gguf").read_bytes() == (folder / "same.gguf").read_bytes()
    assert apex_cli("verify", "out.gguf", model).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("imatrix", "MODEL", "-o", "out.gguf"),
        ("eval", "MODEL", "--speed"),
        ("measure", "MODEL"),
        ("fit", "MODEL", "--size", "1MiB"),
        ("quantize", "MODEL", "out.gguf", "--tier", "i-quality", "--imatrix", "auto"),
        ("plan", "MODEL", "--tier", "fit-mini"),
    ],
)
def test_what_runs_the_model_says_how_to_get_a_file(
    apex_cli: Apex, llama_folder: Path, folder: Path, arguments: tuple[str, ...]
) -> None:
    model = str(llama_folder / "llama")
    result = apex_cli(*(model if each == "MODEL" else each for each in arguments))
    assert result.returncode == 3, result.stderr
    assert "is a Hugging Face model, and" in result.stderr
    assert f"hint: apex convert {model} -o model.gguf makes one" in result.stderr
    assert not list(folder.iterdir())


def test_a_bad_folder_and_a_bad_type(apex_cli: Apex, llama_folder: Path, folder: Path) -> None:
    result = apex_cli("convert", folder, "-o", "out.gguf")
    assert result.returncode == 3
    assert "has no config.json, so it is not a Hugging Face model" in result.stderr
    result = apex_cli("convert", llama_folder / "llama", "-o", "out.gguf", "--outtype", "q4_0")
    assert result.returncode == 2
    assert "hint: one of auto, bf16, f16, f32, q8_0" in result.stderr
