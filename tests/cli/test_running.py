"""``apex imatrix``, ``calibration``, ``eval`` and ``report``, as a user runs them."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from support.commands import COMMAND, Apex, environment
from support.language import write_hellaswag, write_text

from apex import _core
from apex.calibration import ImportanceAccumulator
from apex.cli.calibrating import showing_calibration
from apex.cli.output import Printer
from apex.cli.stopping import Stopped
from apex.files import load_imatrix, write_imatrix

SMALL = ("-c", "64", "-b", "256")


@pytest.fixture
def text(folder: Path) -> Path:
    path = folder / "text.txt"
    write_text(path, 1500)
    return path


def test_from_a_text_to_a_report(
    apex_cli: Apex, demo_model: Path, text: Path, folder: Path
) -> None:
    shutil.copy(demo_model, folder / "f16.gguf")
    write_hellaswag(folder / "hs.txt", 4)
    layers = ("--edge-layers", "1", "--near-layers", "1")

    made = apex_cli("imatrix", "f16.gguf", "-f", text, "--chunks", "8", *SMALL)
    assert made.returncode == 0, made.stderr
    covered = (
        r"\d+\.\d\d % of the 144 experts have seen 32 tokens or more \(median \d+, fewest \d+\)"
    )
    reached = r"(every expert was|1 was|\d+ were) reached"
    assert re.search(f"{covered}; {reached}", made.stdout), made.stdout
    assert "peak memory" in made.stdout and "wrote f16.imatrix.gguf" in made.stdout
    matrix = load_imatrix(folder / "f16.imatrix.gguf")
    assert (matrix.chunk_count, matrix.chunk_size) == (8, 64)

    command = ("quantize", "f16.gguf", "q.gguf", "--tier", "i-compact", *layers)
    assert apex_cli(*command, "--imatrix", "auto").returncode == 0
    assert apex_cli("verify", "q.gguf", "f16.gguf", "--imatrix", "auto").returncode == 0

    evaluated = apex_cli(
        "eval", "q.gguf", "-r", "f16.gguf", "-f", text, *SMALL, "-ngl", "0",
        "--hellaswag", "hs.txt", "--speed", "--n-prompt", "16", "--n-gen", "2",
        "--repetitions", "2", "--mtp", "--tensor-errors", "-o", "results.json",
    )  # fmt: skip
    assert evaluated.returncode == 0, evaluated.stderr
    for part in ("KL mean", "f16 (reference)", "the most likely token is",
                 "do not judge these files", "Multi-token-prediction head", "hellaswag (hs)",
                 "pp16", "tg2", "peak memory", "wrote results.json"):  # fmt: skip
        assert part in evaluated.stdout, part
    data = json.loads((folder / "results.json").read_text())
    assert data["models"][1]["divergence"]["kl"]["value"] > 0
    assert data["settings"]["gpu_layers"] == 0 and data["machine"]["gpus"] == []

    made = apex_cli("report", "results.json", "-o", "report")
    assert made.returncode == 0, made.stderr
    assert (folder / "report/index.html").stat().st_size > 50_000
    assert (folder / "report/map-q.png").exists()
    written = {folder / line.removeprefix("wrote ") for line in made.stdout.splitlines()}
    assert written == set((folder / "report").iterdir())
    for name in ("index.html", "report.md"):
        assert "q compared with f16" in (folder / "report" / name).read_text(encoding="utf-8")


def test_auto_makes_one_first(apex_cli: Apex, demo_model: Path, folder: Path) -> None:
    (folder / "m.gguf").symlink_to(demo_model)
    layers = ("--edge-layers", "1", "--near-layers", "1")
    command = ("quantize", "m.gguf", "o.gguf", "--tier", "mini", "--imatrix", "auto", *layers)
    dry = apex_cli(*command, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "would first make m.imatrix.gguf" in dry.stderr
    planned = apex_cli("plan", "m.gguf", "--tier", "mini", "--imatrix", "auto", *layers)
    assert planned.returncode == 0, planned.stderr
    assert not (folder / "m.imatrix.gguf").exists()
    # What can be known before is said before, not after an hour of calibration.
    (folder / "o.gguf").write_text("mine")
    assert apex_cli(*command).returncode == 6
    assert not (folder / "m.imatrix.gguf").exists()
    missing = apex_cli("verify", "m.gguf", "m.gguf", "--imatrix", "auto")
    assert missing.returncode == 4
    assert "There is no importance matrix of m.gguf beside it" in missing.stderr


def test_auto_says_what_it_uses(apex_cli: Apex, demo_model: Path, text: Path, folder: Path) -> None:
    (folder / "m.gguf").symlink_to(demo_model)
    auto = ("--tier", "mini", "--imatrix", "auto", "--edge-layers", "1", "--near-layers", "1")
    quantize = ("quantize", "m.gguf", "o.gguf", *auto, "--chunks", "4", "--ctx-size", "64")
    made = apex_cli(*quantize)
    assert made.returncode == 0, made.stderr
    again = apex_cli(*quantize, "--overwrite")
    assert "using m.imatrix.gguf, which was made of this model\n" in again.stderr
    planned = apex_cli("plan", "m.gguf", *auto)
    assert (
        "was made of this model, with context length 64 instead of 512, chunks 4" in planned.stderr
    )
    fewer = apex_cli(*quantize, "--chunks", "8", "--overwrite")
    assert fewer.returncode == 0, fewer.stderr
    assert "note: m.imatrix.gguf was made with other options: chunks 4 instead of 8" in fewer.stderr
    assert load_imatrix(folder / "m.imatrix.gguf").chunk_count == 8
    # One of the user's own is never replaced.
    own = ("imatrix", "m.gguf", "-f", text, *SMALL, "--chunks", "4", "--overwrite", "-q")
    assert apex_cli(*own).returncode == 0
    before = (folder / "m.imatrix.gguf").read_bytes()
    refused = apex_cli(*quantize, "--chunks", "8", "--overwrite")
    assert refused.returncode == 4
    assert "was made with other options" in refused.stderr
    assert "only what --imatrix auto made itself is replaced" in refused.stderr
    assert (folder / "m.imatrix.gguf").read_bytes() == before


def test_merge_and_show(apex_cli: Apex, demo_model: Path, text: Path, folder: Path) -> None:
    make = ("imatrix", demo_model, "-f", text, *SMALL, "--chunks", "4", "-q")
    assert apex_cli(*make, "-o", "a.gguf").returncode == 0
    assert apex_cli(*make, "-o", "b.dat", "--output-format", "dat").returncode == 0
    merged = apex_cli("imatrix", "merge", "a.gguf", "a.gguf", "-o", "both.gguf")
    assert merged.returncode == 0, merged.stderr
    one, two = (load_imatrix(folder / name) for name in ("a.gguf", "both.gguf"))
    assert two.chunk_count == 2 * one.chunk_count == 8
    assert load_imatrix(folder / "b.dat").is_legacy

    shown = apex_cli("imatrix", "show", "a.gguf")
    assert "blk.8.nextn.eh_proj.weight" in shown.stdout
    assert "largest columns" in shown.stdout and "similarity" in shown.stdout
    assert re.search(r"\d+/16", shown.stdout)
    assert "text.txt" in shown.stdout
    verdict, table = shown.stdout.index("not good enough"), shown.stdout.index("largest columns")
    assert verdict < shown.stdout.index("256 tokens of text") < table
    layers = apex_cli("imatrix", "show", "a.gguf", "--layers")
    assert "Averages per layer" in layers.stdout
    data = json.loads(apex_cli("imatrix", "show", "a.gguf", "--json").stdout)
    assert data["coverage"]["experts"] == 144
    assert data["tensors"][0]["dominant"]
    assert data["verdict"]["grade"] == "not good enough" and data["verdict"]["missing"] == []
    whole = apex_cli("imatrix", "show", "a.gguf", "--model", demo_model)
    assert "every tensor of the model that can use an entry has one" in whole.stdout
    part = load_imatrix(folder / "a.gguf")
    name = "blk.1.ffn_down_exps.weight"
    entries = {key: entry for key, entry in part.entries.items() if key != name}
    write_imatrix(folder / "part.gguf", entries, datasets=(), chunk_count=4, chunk_size=64)
    lacking = apex_cli("imatrix", "show", "part.gguf", "--model", demo_model)
    assert f"- 1 tensor of the model has no entry: {name}\n" in lacking.stdout
    again = apex_cli("imatrix", "merge", "a.gguf", "-o", "both.gguf")
    assert again.returncode == 6


def test_built_in_texts(apex_cli: Apex, folder: Path) -> None:
    shown = apex_cli("calibration")
    assert "reasoning" in shown.stdout and "together" in shown.stdout
    assert apex_cli("calibration", "--export", "texts").returncode == 0
    files = sorted(path.name for path in (folder / "texts").iterdir())
    assert len(files) == 8 and "tools.txt" in files
    assert "<|im_start|>user" in (folder / "texts/chat.txt").read_text(encoding="utf-8")
    assert apex_cli("calibration", "--export", "texts").returncode == 6


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(600):
        if path.exists() or process.poll() is not None:
            return
        time.sleep(0.05)


def started(folder: Path, *command: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *command],
        cwd=folder,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_run_that_was_killed_goes_on(apex_cli: Apex, demo_model: Path, folder: Path) -> None:
    command = ["imatrix", str(demo_model), *SMALL, "--chunks", "60", "--save-every", "8"]
    assert apex_cli(*command, "-o", "whole.gguf", "-q").returncode == 0
    process = started(folder, *command, "-o", "cut.gguf")
    checkpoint = folder / "cut.gguf.checkpoint"
    wait_for(checkpoint, process)
    process.kill()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, stderr
    assert checkpoint.exists() and not (folder / "cut.gguf").exists()
    again = apex_cli(*command, "-o", "cut.gguf")
    assert again.returncode == 0
    assert "went on after" in again.stderr
    assert (folder / "cut.gguf").read_bytes() == (folder / "whole.gguf").read_bytes()
    assert not checkpoint.exists()


@pytest.mark.parametrize(
    ("how", "word"),
    [
        (signal.SIGINT, "interrupted"),
        (signal.SIGTERM, "terminated"),
        (signal.SIGHUP, "terminated"),
    ],
)
def test_a_run_that_was_stopped_saves_what_it_has(
    apex_cli: Apex, demo_model: Path, folder: Path, how: signal.Signals, word: str
) -> None:
    """Long before a checkpoint is due."""
    command = ["imatrix", str(demo_model), *SMALL, "--chunks", "120", "--save-every", "1000"]
    process = started(folder, *command, "-o", "cut.gguf", FORCE_COLOR="1", TERM="xterm")
    assert process.stderr is not None
    before = ""
    while "experts covered" not in before:  # the bar shows the first group of chunks
        before += process.stderr.readline()
        assert process.poll() is None, before
    assert "calibrating with 120 chunks takes about" in before
    process.send_signal(how)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + how, stderr
    said = rf"{word}; (\d+) chunks are saved, and the same command goes on from there"
    saved = re.search(said, stderr)
    assert saved is not None, stderr
    assert sorted(path.name for path in folder.iterdir()) == ["cut.gguf.checkpoint"]
    again = apex_cli(*command, "-o", "cut.gguf")
    assert again.returncode == 0
    assert f"went on after {saved[1]} chunks of cut.gguf.checkpoint" in again.stderr
    if how == signal.SIGINT:
        assert apex_cli(*command, "-o", "whole.gguf", "-q").returncode == 0
        assert (folder / "cut.gguf").read_bytes() == (folder / "whole.gguf").read_bytes()


def test_what_is_said_of_a_run_that_was_stopped_at_once() -> None:
    """There is no checkpoint then, and none is promised."""
    with pytest.raises(Stopped) as stopped, showing_calibration(Printer(quiet=True)):
        raise KeyboardInterrupt
    assert stopped.value.message == "interrupted; no chunk was finished, so nothing was saved"


def test_an_evaluation_that_is_stopped_prints_what_it_knows(demo_model: Path, folder: Path) -> None:
    write_text(folder / "long.txt", 30_000)
    command = ["eval", str(demo_model), "-f", "long.txt", *SMALL, "-o", "part.json"]
    process = started(folder, *command, FORCE_COLOR="1", TERM="xterm")
    assert process.stderr is not None
    while "PPL" not in process.stderr.readline():  # the bar shows the first estimate
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    chunks = int(re.search(r"Over (\d+) chunks", stdout)[1])
    assert 0 < chunks < 290
    data = json.loads((folder / "part.json").read_text())
    assert data["complete"] is False
    assert data["models"][0]["perplexity"]["chunks"] == chunks


WRONG = {
    "eval of nothing": (["eval", "MODEL"], 2, "Nothing was asked for"),
    "eval without models": (["eval", "-f", "TEXT"], 2, "nothing to compare"),
    "text missing": (["eval", "MODEL", "-f", "none.txt"], 2, "cannot be read"),
    "text too short": (["eval", "MODEL", "-f", "TEXT", "-c", "4096"], 2, "needs 8192"),
    "model missing": (["eval", "none.gguf", "-f", "TEXT"], 3, "none.gguf"),
    "no language model": (["eval", "DENSE", "-f", "TEXT"], 8, "cannot load the model"),
    "cache type": (["eval", "MODEL", "-f", "TEXT", "-ctk", "q9"], 2, "KV cache type"),
    "gpu layers": (["eval", "MODEL", "-f", "TEXT", "-ngl", "many"], 2, "not a number of layers"),
    "no base file": (["eval", "MODEL", "--base", "TEXT"], 2, "does not hold log-probabilities"),
    "no memory": (["eval", "MODEL", "--speed", "--n-prompt", "99999999"], 8, "GiB are free"),
    "output exists": (["eval", "MODEL", "-f", "TEXT", "-o", "TEXT"], 6, "is the input itself"),
    "other vocabulary": (
        ["eval", "LLAMA", "-r", "MODEL", "-f", "TEXT", "-c", "64"],
        8,
        "different vocab",
    ),
    "no coverage": (["imatrix", "MODEL", "-o", "o", "--until-coverage", "7"], 2, "between 0 and 1"),
    "weight": (["imatrix", "MODEL", "-o", "o", "-f", "TEXT=0"], 2, "above 0"),
    "matrix is a text": (
        ["imatrix", "MODEL", "-o", "o", "--in-file", "TEXT"],
        4,
        "not an importance matrix",
    ),
    "format": (["imatrix", "MODEL", "-o", "o", "--output-format", "npz"], 2, "no format npz"),
    "show a model": (["imatrix", "show", "MODEL"], 4, "but not an importance matrix"),
    "merge nothing": (["imatrix", "merge", "none.gguf", "-o", "o"], 4, "cannot be read"),
    "report of no JSON": (["report", "TEXT", "-o", "r"], 2, "is not a JSON file"),
}


@pytest.mark.parametrize(("arguments", "status", "message"), WRONG.values(), ids=WRONG)
def test_mistakes(
    apex_cli: Apex,
    demo_model: Path,
    dense_model: Path,
    language_model: Path,
    text: Path,
    folder: Path,
    arguments: list[str],
    status: int,
    message: str,
) -> None:
    names = {"MODEL": demo_model, "DENSE": dense_model, "LLAMA": language_model, "TEXT": text}
    before = sorted(folder.iterdir())
    given = [re.sub("^[A-Z]+", lambda m: str(names.get(m[0], m[0])), part) for part in arguments]
    result = apex_cli(*given)
    assert result.returncode == status, result.stderr
    assert message in result.stderr
    assert "error: " in result.stderr
    assert sorted(folder.iterdir()) == before


ONTO_AN_INPUT = {
    "model": ["imatrix", "MODEL", "-o", "MODEL"],
    "text": ["imatrix", "MODEL", "-f", "TEXT", "-o", "TEXT"],
    "matrix": ["imatrix", "MODEL", "--in-file", "MATRIX", "-o", "MATRIX"],
    "merged": ["imatrix", "merge", "MATRIX", "-o", "MATRIX"],
    "results, model": ["eval", "MODEL", "-f", "TEXT", "-o", "MODEL"],
    "results, text": ["eval", "MODEL", "-f", "TEXT", "-o", "TEXT"],
    "base, model": ["eval", "-r", "MODEL", "-f", "TEXT", "--write-base", "MODEL"],
    "base, text": ["eval", "-r", "MODEL", "-f", "TEXT", "--write-base", "TEXT"],
}


@pytest.mark.parametrize("arguments", ONTO_AN_INPUT.values(), ids=ONTO_AN_INPUT)
def test_an_input_is_never_overwritten(
    apex_cli: Apex, demo_model: Path, text: Path, folder: Path, arguments: list[str]
) -> None:
    names = {"MODEL": folder / "m.gguf", "TEXT": text, "MATRIX": folder / "i.gguf"}
    shutil.copy(demo_model, names["MODEL"])
    matrix = ImportanceAccumulator()
    matrix.add("blk.0.attn_q.weight", np.ones((4, 8), np.float32))
    matrix.save(names["MATRIX"])
    before = {path: path.read_bytes() for path in folder.iterdir()}
    given = [str(names.get(part, part)) for part in arguments]
    result = apex_cli(*given, "--overwrite")
    assert result.returncode == 6, result.stderr
    assert "is the input itself" in result.stderr
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("command", ["imatrix", "eval"])
def test_text_that_is_not_utf_8(
    apex_cli: Apex, demo_model: Path, folder: Path, command: str
) -> None:
    (folder / "t.txt").write_bytes(b"some words " * 100 + b"\xf7\xbf\xbf\xbf" + b" more" * 900)
    result = apex_cli(command, demo_model, "-f", "t.txt", "-o", "o", *SMALL)
    assert result.returncode == 2, result.stderr
    assert "t.txt is not UTF-8 text: the byte at offset 1100 is 0xf7" in result.stderr


@pytest.mark.skipif(bool(_core.gpu_devices()), reason="there is a GPU")
@pytest.mark.parametrize("layers", ["5", "all"])
def test_layers_on_a_gpu_where_there_is_none(
    apex_cli: Apex, demo_model: Path, text: Path, folder: Path, layers: str
) -> None:
    for command in (
        ("eval", demo_model, "-f", text, *SMALL, "--gpu-layers", layers),
        ("imatrix", demo_model, "-f", text, *SMALL, "-o", "o.gguf", "-ngl", layers),
    ):
        result = apex_cli(*command)
        assert result.returncode == 8, result.stderr
        assert re.search("error: (This build .* on a GPU|No GPU was found)", result.stderr)
        assert "leave out --gpu-layers" in result.stderr


def test_second_moments_are_collected_and_merged(
    apex_cli: Apex, demo_model: Path, folder: Path
) -> None:
    write_text(folder / "text.txt", 1500)
    command = ("imatrix", demo_model, "-f", "text.txt", "-c", "64", "--chunks", "4", "-b", "64")
    memory = ("--max-memory", "8M")
    result = apex_cli(*command, "-o", "i.gguf", "--second-moments", "m.gguf", *memory)
    assert result.returncode == 0, result.stderr
    size = (folder / "m.gguf").stat().st_size / 2**20
    assert f"inputs take {size:.2f} MiB in m.gguf; the texts are run " in result.stderr
    assert f"wrote m.gguf: second moments, {size:.2f} MiB" in result.stdout
    merged = apex_cli("imatrix", "merge", "m.gguf", "m.gguf", "-o", "both.gguf")
    assert merged.stdout == "wrote both.gguf: second moments of 2 files\n"
    mixed = apex_cli("imatrix", "merge", "m.gguf", "i.gguf", "-o", "c.gguf")
    assert mixed.returncode == 4
    assert "i.gguf is not a second-moment file" in mixed.stderr
    assert not (folder / "c.gguf").exists()
