"""Terminals of every width, and pipes, which have none."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

import pytest
from support.commands import COMMAND, Apex, drain, environment
from support.language import write_text
from support.llama import write_llama

REFERENCE, QUANTIZED = "some-model-30B-A3B-Instruct-f16", "some-model-30B-A3B-Instruct-APEX-Q8_0"


def on_a_terminal(folder: Path, width: int, *arguments: str | Path) -> str:
    """All that the command writes on a terminal of this width, without its styles."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    variables = environment(TERM="xterm-256color")
    variables.pop("COLUMNS", None)
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=folder, env=variables, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(theirs)
    written = drain(ours)
    assert process.wait(60) == 0
    return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", written.decode()).replace("\r\n", "\n")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / f"{REFERENCE}.gguf").symlink_to(demo_model)
    command = ["quantize", f"{REFERENCE}.gguf", f"{QUANTIZED}.gguf", "--type", "Q8_0", "-q"]
    subprocess.run([*COMMAND, *command], cwd=folder, env=environment(), check=True)
    write_text(folder / "text.txt", 1500)
    return folder


EVAL = ("eval", f"{QUANTIZED}.gguf", "-r", f"{REFERENCE}.gguf", "-f", "text.txt", "-c", "64",
        "-b", "256", "-t", "1", "--chunks", "5", "-o", "results.json", "--overwrite")  # fmt: skip


def numbers(folder: Path) -> list[str]:
    """What the table must show, from the file for machines."""
    data = json.loads((folder / "results.json").read_text())
    quantized = data["models"][1]
    far = quantized["divergence"]
    pairs = ((quantized["perplexity"], 4, 1), (far["kl"], 6, 1), (far["same_top"], 3, 100),
             (far["dp_rms"], 3, 100))  # fmt: skip
    return [
        *(f"{f * p['value']:.{d}f} ± {f * p['error']:.{d}f}" for p, d, f in pairs),
        f"{far['kl']['median']:.6f}",
        f"{far['kl']['p99.9']:.4f}",
        f"{far['kl']['maximum']:.4f}",
        f"{quantized['bits_per_weight']:.3f}",
    ]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_eval_cuts_no_number_and_drops_no_name(models: Path, width: int) -> None:
    text = on_a_terminal(models, width, *EVAL)
    lines = text.split("\n")
    assert max(map(len, lines)) <= width
    for number in numbers(models):
        assert re.search(rf"(^|\s){re.escape(number)}($|\s)", text, re.M), number
    table = text[text.index("model") : text.index("is very close")]
    for block in table.split("\n\n")[:-1]:
        names = re.sub(r"\s", "", "".join(re.sub(r"  .*", "", line) for line in block.split("\n")))
        assert QUANTIZED in names


def test_piped_eval_is_one_table(models: Path) -> None:
    command = [*COMMAND, *EVAL]
    shown = subprocess.run(
        command, cwd=models, env=environment(), check=True, capture_output=True, encoding="utf-8"
    ).stdout
    (line,) = [line for line in shown.splitlines() if line.startswith(f"{QUANTIZED}  ")]
    assert all(number in line for number in numbers(models))
    assert [line for line in shown.splitlines() if line.startswith(f"{QUANTIZED} is very close")]


def test_piped_plan_and_imatrix_have_whole_lines(
    apex_cli: Apex, folder: Path, imatrix: Path
) -> None:
    write_llama(folder / "m.gguf")
    for command in (
        ("plan", "m.gguf", "--tier", "i-quality", "--imatrix", imatrix, "--tensors"),
        ("imatrix", "show", imatrix),
    ):
        lines = apex_cli(*command, COLUMNS="40").stdout.splitlines()
        rows = [line for line in lines if line.startswith("blk.")]
        names = {line.split()[0] for line in rows}
        assert len(names) == len(rows) > 5
        assert all(name.endswith(".weight") for name in names)
