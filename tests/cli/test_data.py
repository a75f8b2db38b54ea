"""``apex data``, with a stand-in of the Hub."""

from __future__ import annotations

import json
from pathlib import Path

from support import language
from support.commands import Apex
from support.datasets_hub import large, serving

from apex.evaluation.data_sets import find_data_set


def test_listed_fetched_and_used(apex_cli: Apex, folder: Path, language_model: Path) -> None:
    listed = apex_cli("data")
    assert listed.returncode == 0
    assert "wiki.test.raw" in listed.stdout and "--winogrande" in listed.stdout
    mmlu = find_data_set("mmlu")
    language.write_multiple_choice(folder / "tasks.bin", 5)
    with serving() as hub:
        hub.files[mmlu.address.removeprefix("{hub}")] = large((folder / "tasks.bin").read_bytes())
        result = apex_cli("data", "mmlu", "-o", "here", "--json", HF_ENDPOINT=hub.url)
        assert result.returncode == 0, result.stderr
        missing = apex_cli("data", "mmlu", "truthfulqa", "-o", "here", HF_ENDPOINT=hub.url)
    (found,) = json.loads(result.stdout)
    assert (found["name"], found["tasks"], found["fetched"]) == ("mmlu", 5, True)
    assert missing.returncode == 2
    assert "truthful-qa-validation.bin cannot be fetched: status 404" in missing.stderr
    assert f"put it there as {Path('here/truthful-qa-validation.bin')}" in missing.stderr
    (folder / "here" / "truthful-qa-validation.bin").write_bytes(
        (folder / "tasks.bin").read_bytes()
    )
    by_hand = apex_cli("data", "truthfulqa", "-o", "here")
    assert by_hand.returncode == 0
    assert "was put there by hand" in by_hand.stderr
    scored = apex_cli("eval", language_model, "--multiple-choice", found["path"], "--no-hash")
    assert scored.returncode == 0 and "mmlu-validation" in scored.stdout


def test_an_unknown_name(apex_cli: Apex) -> None:
    result = apex_cli("data", "mmlu", "riddles")
    assert result.returncode == 2
    assert "There is no data set 'riddles'" in result.stderr
