"""Several files in one pass, and plans that are carried out later."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import imatrix
from support.architectures import architectures, write_model
from support.commands import Apex

import apex

SPEC = architectures()["qwen35moe"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("several") / "Small-3B-F16.gguf"
    write_model(path, SPEC)
    imatrix.write_gguf(path.with_name("matrix.gguf"), imatrix.random_imatrix(SPEC))
    return path


def test_every_tier_and_a_type_in_one_pass(apex_cli: Apex, model: Path, tmp_path: Path) -> None:
    matrix = model.with_name("matrix.gguf")
    wanted = ("--tier", "all", "--type", "q4_k_m", "--imatrix", str(matrix))
    result = apex_cli("quantize", str(model), "-o", str(tmp_path), *wanted, "--json")
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    names = {Path(item["paths"][0]).name: item for item in told}
    assert len(names) == 10
    assert {"Small-3B-APEX-I-Quality.gguf", "Small-3B-APEX-Mini.gguf", "Small-3B-Q4_K_M.gguf"} < (
        set(names)
    )
    for name, item in names.items():
        plan = item["plan"]
        chosen = {"tier": plan["tier"]} if plan["tier"] else {"file_type": plan["file_type"]}
        alone = apex.quantize(model, tmp_path / "alone", imatrix=plan["imatrix"], **chosen)
        assert alone.paths[0].read_bytes() == (tmp_path / name).read_bytes()
        (tmp_path / "alone").unlink()
    assert names["Small-3B-APEX-Quality.gguf"]["plan"]["imatrix"] is None
    assert names["Small-3B-APEX-I-Quality.gguf"]["plan"]["imatrix"] == str(matrix)


def test_what_is_there_is_not_made_again(apex_cli: Apex, model: Path, tmp_path: Path) -> None:
    command = ("quantize", str(model), "-o", str(tmp_path), "--tier", "quality")
    assert apex_cli(*command).returncode == 0
    (path,) = tmp_path.iterdir()
    before = path.stat().st_mtime_ns
    again = apex_cli(*command, "--tier", "compact", "--edge-layers", "1", "--type", "Q8_0")
    assert again.returncode == 6, "quality with another edge is another file"
    assert "exists already" in again.stderr
    again = apex_cli(*command, "--type", "Q8_0")
    assert again.returncode == 0, again.stderr
    assert "APEX-Quality.gguf is there and up to date" in again.stderr
    assert path.stat().st_mtime_ns == before
    assert sorted(item.name for item in tmp_path.iterdir()) == [path.name, "Small-3B-Q8_0.gguf"]
    path.write_bytes(path.read_bytes()[:-1])
    stopped = apex_cli(*command)
    assert stopped.returncode == 6
    assert apex_cli(*command, "--overwrite").returncode == 0
    nothing = apex_cli(*command)
    assert nothing.returncode == 0
    assert "up to date" in nothing.stderr


def test_a_plan_that_is_carried_out_later(apex_cli: Apex, model: Path, tmp_path: Path) -> None:
    shown = apex_cli("plan", str(model), "--tier", "compact", "--json")
    (tmp_path / "plan.json").write_text(shown.stdout)
    apex.quantize(model, tmp_path / "alone.gguf", tier="compact")
    alone = (tmp_path / "alone.gguf").read_bytes()
    plan = ("quantize", "--plan", str(tmp_path / "plan.json"))
    assert apex_cli(*plan, str(tmp_path / "one.gguf")).returncode == 0
    assert apex_cli(*plan, str(model), str(tmp_path / "two.gguf")).returncode == 0
    assert apex_cli(*plan, "-o", str(tmp_path / "folder")).returncode == 0
    for name in ("one.gguf", "two.gguf", "folder/Small-3B-APEX-Compact.gguf"):
        assert (tmp_path / name).read_bytes() == alone


MISTAKES = {
    "no output": (("MODEL",), "name of the output is missing"),
    "no model": ((), "The model is missing"),
    "two tiers for one file": (("MODEL", "OUT", "--tier", "mini", "--type", "Q8_0"), "2 tiers and"),
    "a file and a folder": (("MODEL", "OUT", "-o", "OUT"), "names a folder for all"),
    "a plan and a tier": (("--plan", "PLAN", "OUT", "--tier", "mini"), "no option can change"),
    "a plan and no output": (("--plan", "PLAN"), "name of the output is missing"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(
    apex_cli: Apex, model: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(apex.plan(model, tier="quality").to_dict()))
    names = {"MODEL": str(model), "OUT": str(tmp_path / "out.gguf"), "PLAN": str(plan)}
    result = apex_cli("quantize", *(names.get(part, part) for part in arguments))
    assert result.returncode == 2
    assert message in result.stderr
    assert "hint: " in result.stderr
    assert list(tmp_path.iterdir()) == [plan]
