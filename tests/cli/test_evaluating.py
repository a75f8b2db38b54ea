"""``apex eval --harness``, with tasks of one's own."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.commands import Apex

pytestmark = pytest.mark.skipif(
    find_spec("lm_eval") is None,
    reason="lm-evaluation-harness is not installed: pip install 'apex-quant[harness]'",
)

TASK = """\
task: apex_letters
dataset_path: json
dataset_kwargs: {data_files: {test: letters.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: [a, b]
doc_to_target: 0
metric_list: [{metric: f1}, {metric: acc}]
"""


@pytest.fixture
def offline(folder: Path) -> dict[str, str]:
    (folder / "tasks").mkdir()
    (folder / "tasks" / "letters.yaml").write_text(TASK)
    lines = [json.dumps({"question": f"{word}: "}) for word in ("one", "two", "three")]
    (folder / "letters.jsonl").write_text("\n".join(lines))
    return {"HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}


def test_a_table_and_a_file(
    apex_cli: Apex, language_model: Path, folder: Path, offline: dict[str, str]
) -> None:
    """f1 has its error by bootstraps, over which the harness prints; nothing of that is seen."""
    result = apex_cli(
        *("eval", language_model, "--harness", "apex_letters", "--harness-path", "tasks"),
        *("--harness-limit", "2", "-o", "results.json", "--json"),
        **offline,
    )
    assert result.returncode == 0, result.stderr
    data = json.loads(result.stdout)
    assert json.loads((folder / "results.json").read_text()) == data
    assert data["settings"]["harness"]["limit"] == 2
    (model,) = data["models"]
    scores = {score["metric"]: score for score in model["harness"]}
    assert scores["acc"]["samples"] == 2 and 0 <= scores["acc"]["value"] <= 1
    assert scores["f1"]["error"] is not None
    kinds = {line.partition(",")[0] for line in result.stderr.splitlines()}
    assert kinds <= {"log-likelihoods", "file hash"}
    table = apex_cli(
        *("eval", language_model, "--harness", "tasks/letters.yaml", "--no-hash"), **offline
    )
    assert table.returncode == 0, table.stderr
    assert "apex_letters" in table.stdout and "f1" in table.stdout


def test_one_sentence(apex_cli: Apex, language_model: Path, offline: dict[str, str]) -> None:
    result = apex_cli(
        "eval", language_model, "--harness", "letters.yaml", "--harness-path", "none", **offline
    )
    assert result.returncode == 2
    assert "none does not hold tasks" in result.stderr
    assert len(result.stderr.splitlines()) == 2
    result = apex_cli("eval", language_model, "--harness-path", "tasks")
    assert result.returncode == 2
    assert "No task of the folder is named" in result.stderr
    assert len(result.stderr.splitlines()) == 2
