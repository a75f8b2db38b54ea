"""The report: numbers in the page, plots as pictures, all of it in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from matplotlib import image

import apex
from apex.errors import OutputError, UsageError
from apex.reporting.results import load_results

TYPES = ("Q6_K", "Q4_K", "IQ2_XXS")


def measured(value: float) -> dict[str, float]:
    return {"value": value, "error": value / 50}


def results(models: int = 3, **settings: Any) -> dict[str, Any]:
    """What ``apex eval`` writes, with invented numbers."""

    def model(index: int) -> dict[str, Any]:
        is_reference = index == 0
        kl = {**measured(0.002 * 3**index), "median": 0.001, "p99.9": 0.2, "maximum": 2.0 * index}
        return {
            "name": "model-f16" if is_reference else f"model-<{index}>",
            "path": f"/somewhere/{index}.gguf",
            "is_reference": is_reference,
            "bytes": (8 - index) * 2**30,
            "bits_per_weight": 16.0 - 4 * index,
            "architecture": "qwen35moe",
            "sha256": {"x": str(index)},
            "perplexity": {**measured(6.5 + index / 10), "positions": 1000, "chunks": 4},
            "divergence": None
            if is_reference
            else {"kl": kl, "same_top": measured(0.9), "dp_rms": measured(0.02)},
            "mtp_agreement": measured(0.7),
            "mtp_perplexity": measured(20.0),
            "tasks": [
                {
                    "kind": "hellaswag", "name": "val", "accuracy": 0.6, "error": 0.02,
                    "interval": [0.5, 0.7], "correct": 240, "tasks": 400, "chance": 0.25,
                }
            ],
            "speed": {"repetitions": 5, "pp512": measured(900.0), "tg128": measured(40.0)},
            "tensors": [
                {
                    "name": f"blk.{layer}.{name}.weight", "layer": layer, "role": role,
                    "type": TYPES[(layer + index) % 3],
                    "bits_per_weight": 2.0 + (layer + index) % 3,
                    "rmse": None if is_reference else 0.01 * (layer + 1),
                }
                for layer in range(6)
                for name, role in (("attn_q", "attention"), ("ffn_up_exps", "routed expert"))
            ],
        }  # fmt: skip

    return {
        "format": "apex evaluation 1",
        "complete": True,
        "apex": "1",
        "llama.cpp": "2",
        "machine": {"processor": "a processor", "threads": 2},
        "settings": {
            "context_length": 512, "cache_type_k": "F16", "cache_type_v": "F16",
            "text": "wiki.txt", "tasks": [], **settings,
        },
        "seconds": 5.0,
        "peak_memory_bytes": 2**30,
        "notes": [],
        "models": [model(index) for index in range(models)],
    }  # fmt: skip


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "results.json").write_text(json.dumps(results()))
    paths = apex.report([tmp_path / "results.json"], tmp_path / "report")
    assert paths[0] == tmp_path / "report/index.html"
    return paths[0]


def test_every_plot_is_a_picture_with_something_on_it(page: Path) -> None:
    plots = {path.stem: path for path in page.parent.glob("*.png")}
    assert {"kl-size", "kl-bars", "ppl-size", "tasks", "speed-size"} < set(plots)
    assert {"map-model--1-", "map-model--2-"} < set(plots)
    for path in plots.values():
        pixels = image.imread(path)
        assert min(pixels.shape[:2]) > 150
        assert (pixels[..., :3].reshape(-1, 3) < 0.9).any(axis=1).mean() > 0.01, path.name


def test_the_page_has_the_numbers_and_needs_nothing_else(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "0.006000 ± 0.000120" in text
    assert "60.00 ± 2.00 (240 of 400)" in text
    assert "900.00 ± 18.00" in text
    assert "model-&lt;1&gt;" in text and "model-<1>" not in text
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', text)
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)


def test_in_a_browser(page: Path, tmp_path: Path) -> None:
    """Headless Chromium loads every picture, lays out every table, and reports no error."""
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if browser is None:
        pytest.skip("there is no Chromium here")
    script = """<script>window.addEventListener("error", e => document.title = "failed");
    window.addEventListener("load", () => { document.body.dataset.seen = JSON.stringify({
      pictures: [...document.images].map(i => i.naturalWidth),
      tables: [...document.querySelectorAll("table")].map(t => t.offsetHeight),
      wide: document.documentElement.scrollWidth - window.innerWidth}); });</script>"""
    copy = tmp_path / "copy.html"
    copy.write_text(page.read_text(encoding="utf-8").replace("</head>", script + "</head>"))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=1280,900", "--virtual-time-budget=10000", "--dump-dom"]
    shown = subprocess.run(
        [*command, copy.as_uri()], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    assert "<title>Evaluation</title>" in shown
    match = re.search(r'data-seen="([^"]*)"', shown)
    assert match is not None
    seen = json.loads(match[1].replace("&quot;", '"'))
    assert len(seen["pictures"]) == 7 and min(seen["pictures"]) > 300
    assert len(seen["tables"]) == 4 and min(seen["tables"]) > 40
    assert seen["wide"] <= 0  # nothing sticks out of the window


def test_results_are_joined(tmp_path: Path) -> None:
    """The same file in the same setting is one record; with another KV cache it is another."""
    first, second, third = results(2), results(2), results(2, cache_type_k="Q8_0")
    for model in first["models"]:
        model["speed"] = None
    for model in second["models"]:
        model["perplexity"] = model["divergence"] = None
        model["tasks"][0]["name"] = "other"
    third["complete"] = False
    paths = []
    for index, data in enumerate((first, second, third)):
        paths.append(tmp_path / f"{index}.json")
        paths[-1].write_text(json.dumps(data))
    joined = load_results(paths)
    assert len(joined.records) == 4
    record = joined.records[0]
    assert record.perplexity is not None and record.speed is not None
    assert set(record.tasks) == {("hellaswag", "val"), ("hellaswag", "other")}
    assert {r.label for r in joined.records} == {
        f"{name}, cache type k {kind}"
        for name in ("model-f16", "model-<1>")
        for kind in ("F16", "Q8_0")
    }
    assert joined.notes == ["2.json is of a run that was stopped; its numbers are of a part."]


def test_one_number_is_enough(tmp_path: Path) -> None:
    data = results(1)
    (model,) = data["models"]
    for key in ("divergence", "mtp_agreement", "mtp_perplexity", "speed"):
        model[key] = None
    model["tasks"] = model["tensors"] = []
    (tmp_path / "a.json").write_text(json.dumps(data))
    _, *plots = apex.report([tmp_path / "a.json"], tmp_path / "out")
    assert [plot.name for plot in plots] == ["ppl-size.png"]


def test_what_goes_wrong(tmp_path: Path, page: Path) -> None:
    for content, message in (
        (b"", "is no JSON"),
        (b"[]", "no results of apex eval"),
        (b'{"format": "apex evaluation 1"}', "incomplete: models, settings missing"),
        (json.dumps({**results(), "models": []}).encode(), "hold no models"),
    ):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(UsageError, match=message):
            apex.report([tmp_path / "bad.json"], tmp_path / "other")
    with pytest.raises(UsageError, match="cannot be read"):
        apex.report([tmp_path / "none.json"], tmp_path / "other")
    with pytest.raises(OutputError, match="exists"):
        apex.report([tmp_path / "results.json"], page.parent)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        apex.report([tmp_path / "results.json"], tmp_path / "file")
