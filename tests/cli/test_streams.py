"""What the command line writes to: pipes, closed and full streams, terminals."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import COMMAND, Apex, drain, environment
from support.llama import write_llama


def test_a_reader_that_has_seen_enough(dense_model: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(
        [*COMMAND, "inspect", dense_model, "--json"],
        env=environment(),
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write)
    assert result.returncode == 1
    assert result.stderr == b""


@pytest.mark.parametrize("stream", ["1", "2"])
def test_a_stream_that_is_closed(stream: str) -> None:
    command = f'exec "$0" -m apex tiers {stream}>&-'
    result = subprocess.run(
        ["sh", "-c", command, sys.executable], env=environment(), capture_output=True, check=False
    )
    assert result.returncode == 0
    assert result.stderr == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_a_full_disk_behind_stdout(dense_model: Path) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [*COMMAND, "plan", dense_model, "--tier", "quality"],
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr.startswith("error: No space left on device\nhint: ")
    assert "Traceback" not in result.stderr


def test_a_stream_without_unicode(apex_cli: Apex, folder: Path) -> None:
    write_llama(folder / "long.gguf", metadata={"ключ": 5})
    result = apex_cli("inspect", "long.gguf", PYTHONIOENCODING="ascii:strict")
    assert result.returncode == 0
    assert r"\u043a" in result.stdout


def on_a_terminal(folder: Path, *arguments: str | Path, **variables: str) -> tuple[int, str]:
    """Run the command on a terminal of 100 columns; its status and all it wrote."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=folder,
        env=environment(TERM="xterm-256color", COLUMNS="100", **variables),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    written = drain(ours)
    return process.wait(60), written.decode()


COLOUR = re.compile(r"\x1b\[[\d;]*(3\d|38;5;\d+)[\d;]*m")


def test_colours_are_for_terminals_that_want_them(
    apex_cli: Apex, dense_model: Path, imatrix: Path, folder: Path
) -> None:
    command = ("plan", dense_model, "--tier", "quality", "--imatrix", imatrix)
    status, coloured = on_a_terminal(folder, *command)
    assert status == 0
    assert COLOUR.search(coloured)
    status, plain = on_a_terminal(folder, *command, NO_COLOR="1")
    assert status == 0
    assert not COLOUR.search(plain)
    elsewhere = apex_cli(*command)
    assert "\x1b" not in elsewhere.stdout + elsewhere.stderr


def test_progress_is_a_bar_on_a_terminal_only(
    apex_cli: Apex, dense_model: Path, folder: Path
) -> None:
    command = ("quantize", dense_model, "out.gguf", "--tier", "quality", "--overwrite")
    status, text = on_a_terminal(folder, *command)
    assert status == 0
    assert re.search(r"quantizing .*100%.*([kMGT]B/s|\?)", text)  # so little may take no time
    status, text = on_a_terminal(folder, *command, "--quiet")
    assert (status, text) == (0, "")
    assert "quantizing " not in apex_cli(*command).stderr


@pytest.mark.parametrize(
    "variables", [{}, {"COLUMNS": "40"}, {"FORCE_COLOR": "1", "TERM": "dumb"}], ids=str
)
def test_nothing_is_wrapped_without_a_terminal(
    apex_cli: Apex, dense_model: Path, folder: Path, variables: dict[str, str]
) -> None:
    rule = "|".join(f"blk.{number}.attn_q" for number in range(60))
    result = apex_cli("plan", dense_model, "--type", "Q8_0", "--tensor-type", f"{rule}=q4_k",
                      "--tensors", **variables)  # fmt: skip
    assert f"{rule}=Q4_K (--tensor-type)\n" in result.stdout
    assert not re.search(r" $", result.stdout, re.M)
