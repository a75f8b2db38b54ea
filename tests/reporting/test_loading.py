"""Results of several runs, joined: what is the same model, and what can be compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.evaluations import results, written

from apex.reporting.loading import load_results
from apex.reporting.tables import by_setting


def test_results_are_joined(tmp_path: Path) -> None:
    """A file is one model; its numbers in another setting stand beside those in the first."""
    first, second, third = results(2), results(2), results(2, cache_type_k="Q8_0")
    for model in first["models"]:
        model["speed"] = None
    for model in second["models"]:
        model["perplexity"] = model["divergence"] = None
        model["tasks"][0]["name"] = "other"
    third["complete"] = False
    joined = load_results(written(tmp_path, first, second, third))
    assert [model.label for model in joined.models] == ["model-<1>", "model-f16"]
    caches = {"KV cache F16", "KV cache Q8_0 and F16"}
    for measured in (joined.texts, joined.speeds):
        assert {
            (setting, result.model.label)
            for setting, results in by_setting(measured)
            for result in results
        } == {(cache, model.label) for cache in caches for model in joined.models}
    names = [result.task for result in joined.tasks if result.model is joined.models[0]]
    assert sorted(names) == ["hellaswag (other)", "hellaswag (val)", "hellaswag (val)"]
    assert joined.notes == ["2.json is of a run that was stopped; its numbers are of a part."]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"text": "other.txt"}, {"text wiki.txt", "text other.txt"}),
        ({"text_sha256": "b" * 64}, {"SHA-256 aaaaaaaa…", "SHA-256 bbbbbbbb…"}),
        ({"cache_type_v": "Q4_0"}, {"KV cache F16", "KV cache F16 and Q4_0"}),
    ],
)
def test_what_is_not_comparable_is_kept_apart(
    tmp_path: Path, change: dict[str, str], expected: set[str]
) -> None:
    same = results(text_sha256="a" * 64)
    joined = load_results(written(tmp_path, same, {**same, "settings": same["settings"] | change}))
    assert {setting for setting, _ in by_setting(joined.texts)} == expected
    assert len(joined.models) == 3 and len(joined.texts) == 6


def test_more_chunks_are_another_measurement(tmp_path: Path) -> None:
    longer = results()
    for model in longer["models"]:
        model["perplexity"]["chunks"] = 400
    joined = load_results(written(tmp_path, results(), longer))
    assert [setting for setting, _ in by_setting(joined.texts)] == ["4 chunks", "400 chunks"]


def test_a_model_is_known_by_its_hash_or_else_by_its_path(tmp_path: Path) -> None:
    moved, unhashed, another = results(1), results(1), results(1)
    moved["models"][0]["path"] = "/elsewhere/model-f16.gguf"
    unhashed["models"][0]["sha256"] = {}
    another["models"][0] |= {"path": "/old/model-f16.gguf", "sha256": {"x": "another"}}
    joined = load_results(written(tmp_path, results(1), moved, unhashed, another))
    assert [model.label for model in joined.models] == ["somewhere/model-f16", "old/model-f16"]
