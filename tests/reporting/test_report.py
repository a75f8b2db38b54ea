"""The report: numbers in the page, plots as pictures, all of it in a real browser."""

from __future__ import annotations

import csv
import html
import json
import re
import resource
from pathlib import Path

import pytest
from matplotlib import image
from support.browser import browse
from support.evaluations import measured, only_perplexity, results, written
from support.frontiers import frontier

import apex
from apex.errors import OutputError, UsageError


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    paths = apex.report(written(folder, results()), folder / "report")
    assert paths[0] == folder / "report/index.html"
    assert set(paths) == set((folder / "report").iterdir())
    return paths[0]


def test_every_plot_is_a_picture_with_something_on_it(page: Path) -> None:
    plots = {path.stem: path for path in page.parent.glob("*.png")}
    assert {"kl-size", "kl-bars", "ppl-size", "tasks", "speed-size"} < set(plots)
    assert {"map-model--1-", "map-model--2-"} < set(plots)
    for path in plots.values():
        pixels = image.imread(path)
        assert min(pixels.shape[:2]) > 150
        assert (pixels[..., :3].reshape(-1, 3) < 0.9).any(axis=1).mean() > 0.01, path.name


def plain(page: Path) -> str:
    """The text that a reader sees."""
    return html.unescape(re.sub(r"<[^>]*>", "", page.read_text(encoding="utf-8")))


def test_the_page_has_the_numbers_and_needs_nothing_else(page: Path) -> None:
    seen = plain(page)
    assert "0.006000 ± 0.000120" in seen
    assert "60.00 ± 2.00240 of 400" in seen
    assert "900.00 ± 18.00" in seen
    assert "0.5200 ± 0.05000.5200" in seen  # with an error, and the metric that has none
    text = page.read_text(encoding="utf-8")
    assert "model-&lt;1&gt;" in text and "model-<1>" not in text
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', text)
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)


def test_the_title_names_what_was_compared(tmp_path: Path) -> None:
    for count, title in (
        (1, "model-f16"),
        (2, "model-<1> compared with model-f16"),
        (3, "model-<1> and model-<2> compared with model-f16"),
        (5, "4 models compared with model-f16"),
    ):
        data = only_perplexity(results(count))
        for index, model in enumerate(data["models"]):
            model["name"] += "-instruct-2507" if count == 5 and index else ""
        page, *_ = apex.report(written(tmp_path, data), tmp_path / "report", overwrite=True)
        found = re.search("<title>(.*)</title>", page.read_text(encoding="utf-8"))
        assert found is not None and sorted(html.unescape(found[1])) == sorted(title)
        assert f"{count} model" in plain(page)


def test_the_same_numbers_as_markdown_and_csv(page: Path) -> None:
    """What the page's tables say, cell by cell, is in the other two."""
    shown = page.read_text(encoding="utf-8")
    rows = [
        [html.unescape(re.sub(r"<[^>]*>", "", cell)) for cell in re.findall("<td>(.*?)</td>", row)]
        for row in re.findall("<tr[^>]*>(.*?)</tr>", shown)
    ]
    lines = (page.parent / "report.md").read_text(encoding="utf-8").splitlines()
    cells = [
        [re.sub(r"\\(.)", r"\1", cell.strip()) for cell in line.strip("|").split(" | ")]
        for line in lines
        if line.startswith("|")
    ]
    assert len([row for row in rows if row]) > 10
    for row in rows:
        assert not row or row in cells
    pictures = re.findall(r"!\[.*\]\((.*)\)", "\n".join(lines))
    assert {page.parent / name for name in pictures} == set(page.parent.glob("*.png"))

    with (page.parent / "results.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    (text,) = [row for row in table if row["measured"] == "text" and row["model"] == "model-<1>"]
    assert float(text["kl_mean"]) == 0.002 * 3 and float(text["kl_mean_error"]) == 0.002 * 3 / 50
    assert (text["bytes"], text["text"], text["context_length"]) == (
        str(7 * 2**30),
        "wiki.txt",
        "512",
    )
    speeds = [float(row["pp512_tokens_per_second"]) for row in table if row["measured"] == "speed"]
    assert speeds == [900.0] * 3
    tasks = [row for row in table if row["measured"] == "hellaswag (val)"]
    assert [(row["accuracy"], row["correct"]) for row in tasks] == [("0.6", "240")] * 3
    scores = [row for row in table if row["measured"] == "gsm8k, 5 shots" and row["value_error"]]
    assert [row["value"] for row in scores] == ["0.52", "0.51", "0.5"]
    assert {row["metric"] for row in scores} == {"exact_match (strict-match) ↑"}
    assert all(row["measured"] != "mmlu_law" for row in table)


@pytest.fixture(scope="module")
def page_of_long_names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    data = results()
    data["models"][1]["name"] = "Some-Model-235B-A22B-Instruct-2507-APEX-I-Quality-with-more-to-say"
    return apex.report(written(folder, data), folder / "report")[0]


@pytest.mark.parametrize("width", [700, 1100])
def test_in_a_browser(page_of_long_names: Path, tmp_path: Path, width: int) -> None:
    """Headless Chromium loads every picture, shows every column, and reports no error."""
    script = """<script>window.addEventListener("error", e => document.title = "failed");
    window.addEventListener("load", () => { document.body.dataset.seen = JSON.stringify({
      pictures: [...document.images].map(i => i.naturalWidth),
      tables: [...document.querySelectorAll("table")].map(t => t.offsetHeight),
      hidden: [...document.querySelectorAll("*")].map(e =>
        e.clientWidth ? e.scrollWidth - e.clientWidth : 0),
      wide: document.documentElement.scrollWidth - window.innerWidth}); });</script>"""
    copy = tmp_path / "copy.html"
    copy.write_text(
        page_of_long_names.read_text(encoding="utf-8").replace("</head>", script + "</head>")
    )
    dom = browse(copy, tmp_path, width=width).dom
    assert "compared with model-f16</title>" in dom
    match = re.search(r'data-seen="([^"]*)"', dom)
    assert match is not None
    seen = json.loads(match[1].replace("&quot;", '"'))
    assert len(seen["pictures"]) == 7 and min(seen["pictures"]) > 300
    assert len(seen["tables"]) == 7 and min(seen["tables"]) > 40
    assert max(seen["hidden"]) <= 0  # nothing is behind a scrollbar
    assert seen["wide"] <= 0  # nothing sticks out of the window


def test_contexts_are_settings_of_a_measurement(tmp_path: Path) -> None:
    """Three models, two of them over a second context: three models, three maps at most."""
    longer = results(2, context_length=2048)
    for model in longer["models"]:
        model["perplexity"]["value"] += 1
    page, *others = apex.report(written(tmp_path, results(), longer), tmp_path / "report")
    seen = plain(page)
    assert "3 models, the reference included" in seen
    assert len([path for path in others if path.name.startswith("map-")]) == 2
    for text in ("context of 512 tokens", "context of 2048 tokens", "6.6000", "7.6000"):
        assert text in seen


def test_one_number_is_enough(tmp_path: Path) -> None:
    _, *others = apex.report(written(tmp_path, only_perplexity(results(1))), tmp_path / "out")
    assert [path.name for path in others] == ["report.md", "results.csv", "ppl-size.png"]


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    """JSON has null for them; the page says so, and the plots leave them out."""
    kl = {"same_top": measured(0.9), "dp_rms": measured(0.02), "kl": {"median": 0.1, "p99.9": 1.0}}
    data = only_perplexity(results(2))
    data["models"][1]["perplexity"]["value"] = None
    data["models"][1]["divergence"] = kl
    kl["kl"] |= {"value": None, "error": None, "maximum": None}
    page, *others = apex.report(written(tmp_path, data), tmp_path / "out")
    assert "not finite" in plain(page) and "not comparable" in plain(page)
    assert not {"kl-size.png", "kl-bars.png"} & {path.name for path in others}


def test_all_or_nothing(tmp_path: Path) -> None:
    """Where the page cannot be written, as on a full disk, no plot is left either."""
    paths = written(tmp_path, only_perplexity(results()))
    page, *_ = apex.report(paths, tmp_path / "whole")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (page.stat().st_size - 1, hard))
    try:
        with pytest.raises(OutputError):
            apex.report(paths, tmp_path / "report")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "report").iterdir())


def test_an_input_is_not_an_output(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    given = only_perplexity(results(1))
    path.write_text(json.dumps(given))
    with pytest.raises(OutputError):
        apex.report([path], tmp_path, overwrite=True)
    assert json.loads(path.read_text()) == given


def test_what_goes_wrong(tmp_path: Path, page: Path) -> None:
    lacking = results()
    del lacking["models"][1]["divergence"]["kl"]["median"]
    for content, message in (
        (b"", "is not a JSON file"),
        (b"\xff\xfe", "is not a JSON file"),
        (b"[" * 100_000, "is not a JSON file"),
        (b'{"a":' * 100_000, "is not a JSON file"),
        (b"[]", "does not hold results of apex eval"),
        (b'{"format": "apex evaluation 1"}', "incomplete: models and settings are missing"),
        (json.dumps({**results(), "models": []}).encode(), "hold no models"),
        (json.dumps({**results(), "models": 5}).encode(), "is damaged"),
        (json.dumps({**results(), "models": [{}]}).encode(), "is damaged"),
        (json.dumps({**results(), "settings": []}).encode(), "is damaged"),
        (json.dumps({**results(), "machine": "a"}).encode(), "is damaged"),
        (json.dumps(lacking).encode(), "is damaged"),
    ):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(UsageError, match=message):
            apex.report([tmp_path / "bad.json"], tmp_path / "other")
    with pytest.raises(UsageError, match="cannot be read"):
        apex.report([tmp_path / "none.json"], tmp_path / "other")
    sound = written(tmp_path, only_perplexity(results(1)))
    with pytest.raises(OutputError, match="exists"):
        apex.report(sound, page.parent)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        apex.report(sound, tmp_path / "file")


def test_a_frontier_is_drawn_with_what_was_measured(tmp_path: Path) -> None:
    curve = tmp_path / "frontier.json"
    curve.write_text(json.dumps(frontier()), encoding="utf-8")
    paths = apex.report([*written(tmp_path, results()), curve], tmp_path / "report")
    names = {path.name for path in paths}
    assert {"frontier.png", "frontier.html"} < names
    text = (tmp_path / "report/frontier.html").read_text(encoding="utf-8")
    shown = json.loads(re.search(r'id="data"[^>]*>(.*?)</script>', text, re.S)[1])
    kls = {entry["name"]: entry["kl"] for entry in shown["measured"]}
    assert kls["model-<1>"] == 0.006 and "model-f16" not in kls


def test_of_one_model_only(tmp_path: Path) -> None:
    curves = [tmp_path / "a.json", tmp_path / "b.json"]
    for curve in curves:
        curve.write_text(json.dumps(frontier()), encoding="utf-8")
    with pytest.raises(UsageError, match="second frontier"):
        apex.report([*written(tmp_path, results()), *curves], tmp_path / "report")
    assert not (tmp_path / "report").exists()
