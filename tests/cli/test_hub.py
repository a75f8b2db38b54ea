"""Models of the Hub, from a stand-in on this machine; in processes that know its address."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support.commands import Apex
from support.hub import COMMIT, Hub, serving
from support.huggingface import write_large

import apex

pytest.importorskip("torch", reason="apex-quant[hf] is not installed")
pytest.importorskip("transformers", reason="apex-quant[hf] is not installed")
pytestmark = [pytest.mark.xdist_group("huggingface"), pytest.mark.slow]


@pytest.fixture
def hub(llama_folder: Path) -> Iterator[Hub]:
    with serving(llama_folder / "llama") as server:
        yield server


@pytest.fixture
def apex_hub(apex_cli: Apex, hub: Hub, folder: Path) -> Apex:
    """The command line, with the stand-in and an empty cache; offline where it is told so."""
    home = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "cache")}
    return lambda *arguments, **variables: apex_cli(*arguments, **{**home, **variables})


def weights(hub: Hub) -> int:
    return sum(size for name, size in hub.sent.items() if name.endswith(".safetensors"))


def test_a_model_of_the_hub(apex_hub: Apex, hub: Hub, llama_folder: Path, folder: Path) -> None:
    plan = apex_hub("plan", "owner/name@main", "--tier", "balanced", "--json")
    assert plan.returncode == 0, plan.stderr
    assert json.loads(plan.stdout)["model"] == f"owner/name@{COMMIT}"
    result = apex_hub("convert", "owner/name", "-o", "out.gguf")
    assert result.returncode == 0, result.stderr
    shutil.copytree(llama_folder / "llama", folder / "name")  # the converter takes names from it
    apex.convert(folder / "name", folder / "expected.gguf")
    assert (folder / "out.gguf").read_bytes() == (folder / "expected.gguf").read_bytes()
    sent = weights(hub)
    (folder / "plan.json").write_text(plan.stdout)
    result = apex_hub("quantize", "--plan", "plan.json", "direct.gguf", "--backend", "cpu")
    assert result.returncode == 0, result.stderr
    apex_hub("quantize", "out.gguf", "twice.gguf", "--tier", "balanced", "--backend", "cpu")
    assert (folder / "direct.gguf").read_bytes() == (folder / "twice.gguf").read_bytes()
    assert weights(hub) < 2 * sent  # headers alone: the files are in the cache


def test_a_plan_of_a_terabyte_brings_headers_only(apex_hub: Apex, hub: Hub, tmp_path: Path) -> None:
    assert write_large(tmp_path / "large", layers=140) > 1e12
    hub.folder = tmp_path / "large"
    hub.failures = 1  # a rate limit that passes
    result = apex_hub("plan", "owner/name")
    assert result.returncode == 0, result.stderr
    assert "as every tier" in result.stdout
    assert 1e5 < weights(hub) < 3e5
    assert sum(hub.refused.values()) == 1


@pytest.mark.parametrize(
    ("refusal", "message", "hint"),
    [
        ((404, "RepoNotFound"), "not a public model of the Hub", "HF_TOKEN"),
        ((403, "GatedRepo"), "is gated: the Hub wants its conditions accepted", "hf auth login"),
        ((400, ""), "The Hub refuses owner/name with status 400", "wait"),
    ],
)
def test_what_the_hub_refuses(
    apex_hub: Apex, hub: Hub, refusal: tuple[int, str], message: str, hint: str
) -> None:
    hub.refusal = refusal
    result = apex_hub("plan", "owner/name")
    assert result.returncode == 3
    assert message in result.stderr
    assert hint in result.stderr
    assert len(result.stderr.splitlines()) == 2


def test_no_revision_and_no_network(apex_hub: Apex, folder: Path) -> None:
    result = apex_hub("plan", "owner/name@nothing")
    assert result.returncode == 3
    assert "owner/name has no such revision" in result.stderr
    result = apex_hub("plan", "owner/name", HF_ENDPOINT="http://127.0.0.1:9")
    assert result.returncode == 3
    assert "owner/name is not here, and the Hub cannot be reached" in result.stderr
    assert len(result.stderr.splitlines()) == 2


def test_a_broken_model_is_called_by_its_id(apex_hub: Apex, hub: Hub, tmp_path: Path) -> None:
    pickles = tmp_path / "pickles"
    pickles.mkdir()
    (pickles / "config.json").write_text("{}")
    (pickles / "pytorch_model.bin").write_bytes(b"x")
    hub.folder = pickles
    result = apex_hub("plan", "owner/name")
    assert result.returncode == 3
    assert f"owner/name@{COMMIT} has its weights only as pickle files" in result.stderr
    assert weights(hub) == 0
    assert hub.sent["pytorch_model.bin"] == 0


def test_a_model_of_the_hub_is_published(apex_hub: Apex, folder: Path) -> None:
    command = ("publish", "owner/name", "-o", "out", "--tier", "quality")
    planned = apex_hub(*command, "--dry-run", "--json")
    assert planned.returncode == 0, planned.stderr
    assert [each["step"] for each in json.loads(planned.stdout)][:2] == ["fetch", "quantize"]
    assert not (folder / "out").exists()
    done = apex_hub(*command)
    assert done.returncode == 0, done.stderr
    assert "fetch: not made yet" in done.stderr
    assert apex_hub(*command).stdout == "out is complete and up to date\n"
    state = json.loads((folder / "out" / "publish.json").read_text())
    assert state["steps"]["fetch"]["needs"]["model"].startswith(f"owner/name@{COMMIT}")
    _, front, _ = (folder / "out" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == "owner/name"
    assert (folder / "out" / "name-APEX-Quality.gguf").exists()


def test_somebody_elses_file_of_the_hub(
    apex_hub: Apex, hub: Hub, folder: Path, tiny_model: Path
) -> None:
    hub.folder = folder / "theirs"
    hub.folder.mkdir()
    apex.quantize(tiny_model, hub.folder / "other-Q4_K_M.gguf", file_type="Q4_K_M")
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog " * 60)
    command = ("publish", tiny_model, "-o", "out", "--tier", "quality", "--evaluate-chunks", "1")
    command += ("--evaluate-on", "text.txt", "--baseline")
    wrong = apex_hub(*command, "owner/name/none.gguf")
    assert wrong.returncode == 3, wrong.stderr
    assert "The Hub does not have owner/name/none.gguf" in wrong.stderr
    wrong = apex_hub(*command, "owner/other/none.gguf")
    assert (wrong.returncode, (folder / "out" / "card").exists()) == (3, False)
    done = apex_hub(*command, "owner/name/other-Q4_K_M.gguf")
    assert done.returncode == 0, done.stderr
    assert "evaluate other-Q4_K_M.gguf" in done.stderr
    assert "| other-Q4_K_M |" in (folder / "out" / "README.md").read_text()
    state = json.loads((folder / "out" / "publish.json").read_text())["steps"]
    needs = state["evaluate other-Q4_K_M.gguf"]["needs"]
    assert needs["model of the baseline"] == f"owner/name@{COMMIT}/other-Q4_K_M.gguf"
