"""Tasks of lm-evaluation-harness in a published folder."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from apex.publishing import Pipeline, Publication

pytestmark = pytest.mark.skipif(
    find_spec("lm_eval") is None,
    reason="lm-evaluation-harness is not installed: pip install 'apex-quant[harness]'",
)


def run(asked: Publication) -> dict[str, str]:
    """Publish; why each step ran."""
    pipeline = Pipeline(asked)
    ran: dict[str, str] = {}
    pipeline.run(
        pipeline.due(), lambda step, why: ran.update({step.name: why}), lambda *progress: None
    )
    return ran


def test_they_are_in_the_card(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a changed task is asked anew."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    lines = [json.dumps({"question": f"{word}: "}) for word in ("one", "two", "three")]
    (tmp_path / "letters.jsonl").write_text("\n".join(lines))
    task = {
        "task": "apex_letters", "dataset_path": "json", "test_split": "test",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "letters.jsonl")}},
        "output_type": "multiple_choice", "doc_to_text": "{{question}}",
        "doc_to_choice": ["a", "b"], "doc_to_target": 0,
    }  # fmt: skip
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "letters.yaml").write_text(json.dumps(task))
    asked = Publication(
        model=tiny_model,
        folder=tmp_path / "out",
        tiers=("quality",),
        harness=("apex_letters",),
        harness_path=tasks,
    )
    assert "evaluate quality" in run(asked)
    card = (asked.folder / "README.md").read_text()
    assert "| apex_letters, 0 shots | acc ↑ |" in card
    assert "*Over 3 documents.*" in card
    assert run(asked) == {}
    (tasks / "letters.yaml").write_text(json.dumps({**task, "doc_to_target": 1}))
    assert "evaluate quality" in run(asked)
    assert "evaluate quality" in run(replace(asked, harness_limit=2))
    assert "*Over 2 documents.*" in (asked.folder / "README.md").read_text()
