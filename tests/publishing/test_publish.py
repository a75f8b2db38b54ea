"""From a model to a published folder: what is made, what is made again, what stops it."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import yaml
from support.evaluations import results, written

import apex
from apex.errors import OutputError, UsageError
from apex.publishing import Pipeline, Publication, load_publication, template
from apex.publishing.card import smallest_without_loss
from apex.publishing.facts import Cache
from apex.publishing.state import locked

WORDS = "the quick brown fox jumps over the lazy dog and runs away into the dark wood again "


@pytest.fixture
def asked(tiny_model: Path, tmp_path: Path) -> Publication:
    """A small publication, of which nothing is done."""
    return make_asked(tiny_model, tmp_path)


def make_asked(model: Path, tmp_path: Path) -> Publication:
    text, judge = tmp_path / "text.txt", tmp_path / "judge.txt"
    text.write_text(WORDS * 40)
    judge.write_text("".join(sorted(WORDS)) * 40)
    return Publication(
        model=model,
        folder=tmp_path / "out",
        tiers=("quality", "mini"),
        texts=(text,),
        built_in=False,
        chunks=2,
        evaluate_on=judge,
        evaluate_chunks=2,
    )


def run(asked: Publication, **which: Any) -> dict[str, str]:
    """Publish; why each step ran."""
    pipeline = Pipeline(asked)
    due = pipeline.due(**which)
    pipeline.check(due)
    ran: dict[str, str] = {}
    pipeline.run(due, lambda step, why: ran.update({step.name: why}), lambda *progress: None)
    return ran


@pytest.fixture(scope="module")
def original(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Publication, dict[str, str]]:
    """One that was published, and why each of its steps ran. Not to be changed."""
    asked = make_asked(tiny_model, tmp_path_factory.mktemp("original"))
    return asked, run(asked)


@pytest.fixture
def published(original: tuple[Publication, dict[str, str]], tmp_path: Path) -> Publication:
    """A copy of it."""
    asked, _ = original
    shutil.copytree(asked.folder, tmp_path / "copy")
    return replace(asked, folder=tmp_path / "copy")


def contents(folder: Path, *, work: bool = False) -> dict[str, str]:
    """By name, what is published."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (work or path.suffix == ".gguf")
    }


def test_everything_is_there(original: tuple[Publication, dict[str, str]], tmp_path: Path) -> None:
    asked, ran = original
    assert list(ran) == [
        "calibrate",
        "quantize",
        "verify quality",
        "verify mini",
        "evaluate the original",
        "evaluate quality",
        "evaluate mini",
        "report",
        "checksums",
        "card",
    ]
    assert set(ran.values()) == {"not made yet"}
    folder = asked.folder
    quality, mini = folder / "tiny-APEX-Quality.gguf", folder / "tiny-APEX-Mini.gguf"
    alone = tmp_path / "alone.gguf"
    apex.quantize(asked.model, alone, tier="mini", imatrix=folder / "tiny.imatrix.gguf")
    assert mini.read_bytes()[-4096:] == alone.read_bytes()[-4096:]
    metadata = apex.open_model(mini).metadata
    assert metadata["quantize.imatrix.file"] == "tiny.imatrix.gguf"
    assert metadata["quantize.imatrix.dataset"] == "text.txt"
    sums = dict(
        reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines()
    )
    assert sums == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (quality, mini)
    }
    (entry,) = (
        e for e in yaml.safe_load((folder / "gallery.yaml").read_text()) if "mini" in e["name"]
    )
    assert entry["files"][0]["sha256"] == sums[mini.name]
    assert entry["overrides"]["parameters"]["model"] == entry["files"][0]["filename"]
    assert (folder / "report" / "index.html").is_file()
    assert not list(folder.rglob("*.partial"))


def test_the_card_says_what_was_measured(published: Publication) -> None:
    text = (published.folder / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["pipeline_tag"] == "text-generation"
    results = json.loads((published.folder / "work" / "results-tiny-APEX-Mini.json").read_text())
    (model,) = results["models"]
    far = model["divergence"]["kl"]
    assert f"{far['value']:.5f} ± {far['error']:.5f}" in body
    assert results["settings"]["chunks"] == 2
    assert "## Tasks" not in body and "## Speed" not in body
    assert "license" not in front  # nobody said


def test_the_card_has_tasks_of_the_harness(asked: Publication, tmp_path: Path) -> None:
    from apex.publishing.card import render_card
    from apex.publishing.facts import PublishedFile, facts_of
    from apex.publishing.publication import CardFacts
    from apex.reporting.loading import load_results

    file = PublishedFile("mini", "small", (asked.model,), ("0",), 9, {})
    facts = facts_of(
        CardFacts(), {}, "M", files=[file], results=load_results(written(tmp_path, results())),
        caches=(), calibration="", versions={}, plots=(), projector=None,
    )  # fmt: skip
    card = render_card(facts)
    assert "| gsm8k, 5 shots | exact_match (strict-match) ↑ | perplexity ↓ |" in card
    assert "| model-<1> | 0.5100 ± 0.0500 | 0.5100 |" in card
    assert "*Over 80 documents.*" in card
    assert "mmlu_law" not in card


def test_smaller_caches(asked: Publication) -> None:
    ran = run(replace(asked, caches=True, tiers=("quality",)))
    names = ["caches F16 F16", "caches Q8_0 Q8_0", "caches Q8_0 Q4_0", "caches Q4_0 Q4_0"]
    assert [name for name in ran if name.startswith("caches")] == names
    text = (asked.folder / "README.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith(("| F16, F16", "| Q4_0, Q4_0"))]
    whole = json.loads((asked.folder / "work" / "results-tiny-APEX-Quality.json").read_text())
    kl = whole["models"][0]["divergence"]["kl"]["value"]
    assert f"{kl:.5f}" in rows[0]  # the same as without a word about caches
    sizes = [float(row.split("|")[4].split()[0]) for row in rows]
    assert sizes[1] < 0.3 * sizes[0]


def test_other_peoples_files_and_a_projector(asked: Publication, tmp_path: Path) -> None:
    other, projector = tmp_path / "other-Q4_K_M.gguf", tmp_path / "vision.gguf"
    apex.quantize(asked.model, other, file_type="Q4_K_M")
    writer = gguf.GGUFWriter(projector, "clip")
    writer.add_type("mmproj")
    writer.add_tensor("v.weight", np.ones((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    asked = replace(asked, tiers=("mini",), baselines=(other,), projector=projector)
    assert "evaluate other-Q4_K_M.gguf" in run(asked)
    copied = asked.folder / "mmproj-vision.gguf"
    assert copied.read_bytes() == projector.read_bytes()
    card = (asked.folder / "README.md").read_text()
    assert "| other-Q4_K_M |" in card and "--mmproj mmproj-vision.gguf" in card
    (entry,) = yaml.safe_load((asked.folder / "gallery.yaml").read_text())
    assert [file["filename"].rpartition("/")[2] for file in entry["files"]] == [
        *("tiny-APEX-Mini.gguf", copied.name)
    ]
    assert entry["overrides"]["mmproj"].endswith(copied.name)
    with pytest.raises(UsageError, match="not a projector"):
        Pipeline(replace(asked, projector=other))
    with pytest.raises(UsageError, match="has the name of one of ours"):
        Pipeline(replace(asked, baselines=(asked.folder / "tiny-APEX-Mini.gguf",)))


def test_the_cache_to_recommend() -> None:
    def cache(name: str, size: int, kl: float) -> Cache:
        return Cache(name, name, {8192: size}, kl, 0.1, {})

    first, near, far = cache("F16", 16, 1.0), cache("Q8_0", 8, 1.19), cache("Q4_0", 4, 1.21)
    assert smallest_without_loss([first, near, far]) is near


def test_a_second_run_does_nothing(published: Publication) -> None:
    before = {path: path.stat().st_mtime_ns for path in published.folder.rglob("*")}
    assert run(published) == {}
    assert before == {path: path.stat().st_mtime_ns for path in published.folder.rglob("*")}


def test_a_changed_option_makes_what_depends_on_it(published: Publication) -> None:
    ran = run(replace(published, evaluate_chunks=1))
    assert ran["evaluate the original"] == "number of chunks was 2 and is 1"
    assert ran["card"].endswith("has changed")
    assert set(ran) == {
        *("evaluate the original", "evaluate quality", "evaluate mini", "report", "card")
    }


def test_a_missing_file_is_made_again_and_nothing_else(published: Publication) -> None:
    mini = published.folder / "tiny-APEX-Mini.gguf"
    before = mini.read_bytes()
    mini.unlink()
    assert run(published) == {"quantize": "tiny-APEX-Mini.gguf is missing"}
    assert mini.read_bytes() == before


def test_what_a_person_wrote_is_not_replaced(published: Publication) -> None:
    card = published.folder / "README.md"
    card.write_text("better words")
    with pytest.raises(OutputError, match=r"README\.md is not as apex publish left it") as caught:
        run(published)
    assert "--skip card" in str(caught.value.hint)
    assert run(published, skip=["card"]) == {}
    assert card.read_text() == "better words"


def test_a_foreign_file_in_the_way(asked: Publication) -> None:
    asked.folder.mkdir()
    (asked.folder / "SHA256SUMS").write_text("mine")
    with pytest.raises(OutputError, match="SHA256SUMS"):
        run(asked)
    assert [path.name for path in asked.folder.iterdir()] == ["SHA256SUMS"]


def test_stages_are_chosen(asked: Publication) -> None:
    assert list(run(asked, only=["calibrate", "quantize"])) == ["calibrate", "quantize"]
    ran = run(asked, skip=["evaluate", "report", "card"])
    assert list(ran) == ["verify quality", "verify mini", "checksums"]
    again = run(asked, begin="checksums", skip=["card"])
    assert again == {"checksums": "asked for"} | {
        name: "not made yet" for name in again if name != "checksums"
    }
    with pytest.raises(UsageError, match="no stage 'publish'"):
        Pipeline(asked).due(only=["publish"])


def test_two_runs_exclude_each_other(asked: Publication) -> None:
    with locked(asked.folder), pytest.raises(OutputError, match="Another run"):
        run(asked)


def test_a_damaged_state(asked: Publication) -> None:
    asked.folder.mkdir()
    (asked.folder / "publish.json").write_text("{")
    with pytest.raises(UsageError, match="does not say what was published"):
        Pipeline(asked).due()


COMMAND = """
import sys
from pathlib import Path
from apex.publishing import Pipeline, load_publication
pipeline = Pipeline(load_publication(Path(sys.argv[1]), {}))
due = pipeline.due()
pipeline.check(due)
pipeline.run(due, lambda step, why: None, lambda *progress: None)
"""


@pytest.mark.slow
def test_a_kill_at_any_moment(asked: Publication, tmp_path: Path) -> None:
    """After twenty of them, the same files as without."""
    run(asked)
    whole = contents(asked.folder)
    file = tmp_path / "publish.toml"
    file.write_text(
        f'model = "{asked.model}"\nfolder = "killed"\ntiers = ["quality", "mini"]\n'
        f'texts = ["text.txt"]\nbuilt_in = false\nchunks = 2\nevaluate_on = "judge.txt"\n'
        "evaluate_chunks = 2\n"
    )
    command, moments = [sys.executable, "-c", COMMAND, str(file)], random.Random(7)
    for _ in range(20):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(0.5 + moments.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True)
    assert contents(tmp_path / "killed") == whole
    assert not list((tmp_path / "killed").rglob("*.partial"))


def test_the_template_is_a_publication(tmp_path: Path) -> None:
    file = tmp_path / "publish.toml"
    file.write_text(template())
    found = load_publication(file, {"chunks": 3})
    assert found.model == Path("OWNER/NAME")
    assert found.chunks == 3
    assert found.speed and found.built_in
    assert found.card.base_model is None
    every = "\n".join(
        line.removeprefix("# ") for line in template().splitlines() if " = " in line or "[" in line
    )
    file.write_text(every)
    found = load_publication(file, {})
    assert found.split_max_size == 45 * 10**9
    assert found.mmproj and not found.mtp
    assert found.card.languages == ("en",)
    assert found.hellaswag == tmp_path / "hellaswag_val_full.txt"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = 3", "model is not a string"),
        ("tiers = [1]", "tiers is not a list of strings"),
        ("chunks = true", "chunks is not a whole number"),
        ("speed = 1", "speed is not true or false"),
        ("colour = 1", "unknown key 'colour'"),
        ("model = ", "not valid TOML"),
        ('folder = "x"', "does not name the model"),
        ("card = 1", "is not a table"),
    ],
)
def test_a_wrong_file(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "publish.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_publication(file, {})


def test_nothing_is_written_before_all_is_checked(asked: Publication, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no tier 'minni'"):
        Pipeline(replace(asked, tiers=("minni",)))
    with pytest.raises(UsageError, match="is not a file"):
        Pipeline(replace(asked, evaluate_on=tmp_path / "none.txt"))
    with pytest.raises(UsageError, match="no text to calibrate on"):
        Pipeline(replace(asked, texts=()))
    assert not asked.folder.exists()


LIMITED = """
import resource, runpy, sys
size = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
runpy.run_module("apex", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits of files are those of Unix")
def test_a_disk_that_becomes_full(asked: Publication, tmp_path: Path) -> None:
    """In whatever stage: one sentence, nothing half-written, and the rerun goes on."""
    run(asked)
    options = ["publish", str(asked.model), "-o", "full", "--tier", "quality", "--tier", "mini"]
    options += ["-f", "text.txt", "--no-built-in", "--chunks", "2", "--evaluate-on", "judge.txt"]
    options += ["--evaluate-chunks", "2"]
    full = tmp_path / "full"

    def publish(*more: str, limit: int = 1 << 30) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", LIMITED, str(limit), *options, *more]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    for stage in ("calibrate", "quantize", "verify", "evaluate", "report"):
        state = full / "publish.json"
        limit = 1500 + (state.stat().st_size if state.exists() else 0)  # for that one alone
        failed = publish("--only", stage, limit=limit)
        assert failed.returncode == 6, (stage, failed.stderr)
        assert failed.stderr.count("error: ") == 1 and "hint: " in failed.stderr
        assert "Traceback" not in failed.stderr and "internal error" not in failed.stderr
        assert not list(full.rglob("*.partial")), stage
        done = publish("--only", stage)
        assert done.returncode == 0, done.stderr
        assert "was interrupted" in done.stderr
    assert publish().returncode == 0
    assert contents(full) == contents(asked.folder)
