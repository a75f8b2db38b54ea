"""How the command line ends: statuses, signals, broken streams, colours. Never a traceback."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from support.commands import COMMAND, Apex, environment
from support.imatrix import write_gguf
from support.llama import grow, llama_tensors, write_llama

from apex.cli import main
from apex.cli import output as cli_output
from apex.errors import UsageError
from apex.policy import recipe_text
from apex.sizes import parse_size


def assert_complaint(result: subprocess.CompletedProcess[str], status: int) -> None:
    """One sentence, one hint, nothing on stdout."""
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    assert re.fullmatch(r"(note: .+\n)*error: .+\nhint: .+\n", result.stderr), result.stderr


USAGE = {
    "no such option": ["plan", "MODEL", "--teir", "quality"],
    "number is no number": ["quantize", "MODEL", "o", "--tier", "quality", "--threads", "many"],
    "number is negative": ["quantize", "MODEL", "o", "--tier", "quality", "-t", "-1"],
    "details of no tier": ["plan", "MODEL", "--tensors"],
    "an export of no tier": ["plan", "MODEL", "--export", "o"],
    "the order of llama-quantize": ["quantize", "MODEL", "o", "Q4_K_M"],
    "chunks without auto": ["quantize", "MODEL", "o", "--tier", "quality", "--chunks", "3"],
    "both tier and type": ["plan", "MODEL", "--tier", "mini", "--type", "Q4_K_M"],
    "no such tier": ["plan", "MODEL", "--tier", "qualty"],
    "no such type": ["plan", "MODEL", "--type", "Q4_Z"],
    "width is negative": ["plan", "MODEL", "--tier", "quality", "--edge-layers", "-1"],
    "rule is malformed": ["plan", "MODEL", "--type", "Q8_0", "--tensor-type", "attn_q"],
    "rule is no expression": ["plan", "MODEL", "--type", "Q8_0", "--tensor-type", "a(=q8_0"],
    "rule matches nothing": ["plan", "MODEL", "--type", "Q8_0", "--tensor-type", "nose=q4_k"],
    "rule file missing": ["plan", "MODEL", "--type", "Q8_0", "--tensor-type-file", "none.txt"],
    "too little memory": ["quantize", "MODEL", "o", "--tier", "quality", "--max-memory", "1M"],
    "size is nothing": ["plan", "MODEL", "--tier", "quality", "--split-max-size", "0"],
    "override of no type": ["plan", "MODEL", "--tier", "quality", "--override-kv", "a=num:5"],
    "override not a number": ["plan", "MODEL", "--tier", "quality", "--override-kv", "a=int:x"],
    "override not a truth": ["plan", "MODEL", "--tier", "quality", "--override-kv", "a=bool:1"],
}


@pytest.mark.parametrize("arguments", USAGE.values(), ids=USAGE)
def test_wrong_usage_ends_with_2(
    dense_model: Path,
    arguments: list[str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    # In this process, since each start of Python takes its time.
    status = main([str(dense_model) if word == "MODEL" else word for word in arguments])
    out, err = capfd.readouterr()
    assert_complaint(subprocess.CompletedProcess([], status, out, err), 2)
    assert list(tmp_path.iterdir()) == []


def test_a_hint_names_what_was_meant(apex_cli: Apex, dense_model: Path) -> None:
    assert "'quality'" in apex_cli("tiers", "qualty").stderr
    assert "--tier" in apex_cli("plan", dense_model, "--teir", "quality").stderr
    assert "--type Q4_K_M" in apex_cli("quantize", dense_model, "o", "Q4_K_M").stderr


def test_a_bad_model_ends_with_3(apex_cli: Apex, dense_model: Path, folder: Path) -> None:
    (folder / "text.gguf").write_text("this is no model")
    (folder / "short.gguf").write_bytes(dense_model.read_bytes()[:-1000])
    for command in (
        ["inspect", "none.gguf"],
        ["inspect", "text.gguf"],
        ["plan", ".", "--tier", "quality"],
        ["quantize", "short.gguf", "out.gguf", "--tier", "quality"],
        ["verify", dense_model, "text.gguf"],
    ):
        assert_complaint(apex_cli(*command), 3)
    assert not (folder / "out.gguf").exists()


def test_a_bad_importance_matrix_ends_with_4(
    apex_cli: Apex, dense_model: Path, imatrix: Path, folder: Path
) -> None:
    (folder / "text.dat").write_text("this is no importance matrix")
    write_gguf(folder / "empty.gguf", {})
    command = ("quantize", dense_model, "out.gguf", "--tier", "i-quality")
    assert_complaint(apex_cli(*command), 4)
    for bad in ("none.gguf", "text.dat", "empty.gguf", dense_model):
        assert_complaint(apex_cli(*command, "--imatrix", bad), 4)
    assert not (folder / "out.gguf").exists()
    assert apex_cli(*command, "--imatrix", imatrix).returncode == 0


def test_a_bad_output_ends_with_6(apex_cli: Apex, dense_model: Path, folder: Path) -> None:
    (folder / "there.gguf").write_bytes(b"precious")
    (folder / "folder").mkdir()
    for output in ("there.gguf", "folder", "there.gguf/below.gguf", dense_model):
        assert_complaint(apex_cli("quantize", dense_model, output, "--tier", "quality"), 6)
    for extra in (["--export", "there.gguf/types.txt"], ["--export", "folder"]):
        assert_complaint(apex_cli("plan", dense_model, "--tier", "quality", *extra), 6)
    if sys.platform == "linux":
        assert apex_cli("demo", "/proc/none").returncode == 6
    assert (folder / "there.gguf").read_bytes() == b"precious"


OVERWRITTEN = {
    "the model": ["quantize", "m.gguf", "m.gguf", "--type", "Q8_0"],
    "a link to it": ["quantize", "m.gguf", "link.gguf", "--type", "Q8_0"],
    "the recipe": ["quantize", "m.gguf", "mine.toml", "--tier", "mine.toml"],
    "the rules": ["quantize", "m.gguf", "r", "--type", "Q8_0", "--tensor-type-file", "r"],
    "the importance matrix": ["quantize", "m.gguf", "i", "--tier", "i-quality", "--imatrix", "i"],
    "a model planned for": ["plan", "m.gguf", "--tier", "quality", "--export", "m.gguf"],
    "a recipe planned with": ["plan", "m.gguf", "--tier", "mine.toml", "--export", "mine.toml"],
    "a matrix merged": ["imatrix", "merge", "i", "-o", "i"],
}


@pytest.mark.parametrize("arguments", OVERWRITTEN.values(), ids=OVERWRITTEN)
def test_an_input_is_not_overwritten_even_if_asked(
    apex_cli: Apex, dense_model: Path, imatrix: Path, folder: Path, arguments: list[str]
) -> None:
    shutil.copy(dense_model, folder / "m.gguf")
    (folder / "link.gguf").symlink_to("m.gguf")
    shutil.copy(imatrix, folder / "i")
    (folder / "r").write_text("attn_q=q4_0")
    (folder / "mine.toml").write_text(recipe_text("quality"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    result = apex_cli(*arguments, "--overwrite")
    assert result.returncode == 6, result.stderr
    assert "is the input itself" in result.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["-", "n" * 300, "n" * 250])
def test_what_is_not_a_name_for_a_file_ends_with_6(
    apex_cli: Apex, dense_model: Path, folder: Path, name: str
) -> None:
    assert_complaint(apex_cli("quantize", dense_model, name, "--type", "Q8_0"), 6)
    assert_complaint(apex_cli("plan", dense_model, "--tier", "quality", "--export", name), 6)
    assert list(folder.iterdir()) == []


def test_weights_that_are_no_numbers_end_with_7(apex_cli: Apex, folder: Path) -> None:
    tensors = llama_tensors()
    tensors["blk.1.ffn_up.weight"][3, 5] = float("nan")
    write_llama(folder / "bad.gguf", tensors)
    result = apex_cli("quantize", "bad.gguf", "out.gguf", "--tier", "quality")
    assert_complaint(result, 7)
    assert "blk.1.ffn_up.weight" in result.stderr
    assert [path.name for path in folder.iterdir()] == ["bad.gguf"]


def test_a_bug_is_one_sentence_and_ends_with_70(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(name: str) -> str:
        raise ZeroDivisionError("oh\nno")

    monkeypatch.setattr("apex.policy.recipe_text", broken)
    monkeypatch.delenv("APEX_TRACEBACK", raising=False)
    assert main(["tiers", "quality"]) == 70
    err = capfd.readouterr().err
    assert err.splitlines()[0] == r"error: internal error: ZeroDivisionError: oh\nno"
    assert "APEX_TRACEBACK=1" in err
    assert "Traceback" not in err
    monkeypatch.setenv("APEX_TRACEBACK", "1")
    assert main(["tiers", "quality"]) == 70
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 129, "terminated"),
    ],
)
def test_a_signal_leaves_nothing_behind(
    dense_model: Path, folder: Path, number: signal.Signals, status: int, word: str
) -> None:
    large = grow(dense_model, folder / "large.gguf", rows=2_000_000)  # 1 GB, but sparse
    command = [*COMMAND, "quantize", large, "out.gguf", "--type", "Q4_K_M", "--threads", "1"]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        partial = folder / "out.gguf.partial"
        while not (partial.exists() and partial.stat().st_size > 1_000_000):
            assert process.poll() is None, process.communicate()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert out == ""
    assert err == f"error: {word}; nothing was left behind\n"
    assert [path.name for path in folder.iterdir()] == ["large.gguf"]


def test_a_signal_while_everything_is_imported(folder: Path) -> None:
    """The first import of the command line's own hangs, so that the signal comes during it."""
    (folder / "slow").mkdir()
    (folder / "slow" / "typer.py").write_text(
        "import pathlib, time\npathlib.Path('here').touch()\ntime.sleep(60)\n"
    )
    path = os.pathsep.join([str(folder / "slow"), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [*COMMAND, "tiers"],
        cwd=folder,
        env=environment(PYTHONPATH=path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        while not (folder / "here").exists():
            assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "error: interrupted\n")


def test_nohup_is_respected(folder: Path) -> None:
    code = "import signal, apex.cli; apex.cli.main(['tiers']); print(signal.getsignal(1).name)"
    for ignore, expected in (("trap '' HUP;", True), ("", False)):
        result = subprocess.run(
            ["sh", "-c", f'{ignore} exec "$0" -c "{code}"', sys.executable],
            env=environment(),
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert ("SIG_IGN" in result.stdout) is expected


# Names and kinds of files


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_a_file_name_that_is_not_utf8(
    dense_model: Path,
    imatrix: Path,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    model, matrix, out = (os.fsdecode(name) for name in (b"m\xff.gguf", b"i\xff", b"o\xff.gguf"))
    shutil.copy(dense_model, model)
    shutil.copy(imatrix, matrix)
    for command in (
        ["inspect", model],
        ["plan", model, "--tier", "quality"],
        ["plan", model, "--tier", "i-quality", "--imatrix", matrix, "--export", "types\udcff"],
        ["quantize", model, out, "--tier", "i-quality", "--imatrix", matrix],
        ["verify", out, model, "--imatrix", matrix],
        ["imatrix", "merge", matrix, "-o", "both\udcff"],
        ["imatrix", "show", matrix],
    ):
        assert main(command) == 0, capfd.readouterr().err
        assert "\udcff" not in capfd.readouterr().out
    assert main(["quantize", model, out, "--type", "Q8_0", "--json", "--overwrite"]) == 0
    assert json.loads(capfd.readouterr().out)["paths"] == [out]
    assert main(["inspect", "none\udcff.gguf"]) == 3
    assert r"none\xff.gguf cannot be read" in capfd.readouterr().err


@pytest.mark.parametrize("name", [b"v.blk.0.attn_q", b"some.key"], ids=["tensor", "key"])
def test_a_header_whose_names_are_not_utf8_ends_with_3(
    folder: Path, capfd: pytest.CaptureFixture[str], name: bytes
) -> None:
    path = folder / "odd.gguf"
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_uint32("some.key", 1)
    writer.add_tensor("v.blk.0.attn_q", np.ones((4, 8), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.write_bytes(path.read_bytes().replace(name, name[:-1] + b"\xff"))
    assert main(["inspect", str(path)]) == 3
    assert "is not text" in capfd.readouterr().err


@pytest.mark.parametrize("what", ["model", "matrix"])
def test_a_pipe_is_not_waited_for(
    dense_model: Path, folder: Path, capfd: pytest.CaptureFixture[str], what: str
) -> None:
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    signal.alarm(60)  # it would wait for ever, and not be interrupted by Ctrl-C
    try:
        if what == "model":
            assert main(["inspect", str(pipe)]) == 3
        else:
            given = ["--tier", "i-quality", "--imatrix", str(pipe)]
            assert main(["plan", str(dense_model), *given]) == 4
    finally:
        signal.alarm(0)
    assert "is not a regular file" in capfd.readouterr().err


def test_a_model_that_may_not_be_read_ends_with_3(
    dense_model: Path,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert main(["inspect", str(dense_model)]) == 0  # imports what nobody else may
    model = shutil.copy(dense_model, folder / "m.gguf")
    model.chmod(0)
    is_root = os.geteuid() == 0
    if is_root:  # who may read everything
        os.seteuid(65534)
    try:
        status = main(["inspect", str(model)])
    finally:
        if is_root:
            os.seteuid(0)
    assert status == 3, capfd.readouterr().err
    assert "cannot be read: Permission denied" in capfd.readouterr().err


# Start


def test_what_a_plan_needs_is_all_that_is_imported(dense_model: Path) -> None:
    """Each of these takes longer to import than the plan of a model to make."""
    code = (
        "import sys, apex.cli; status = apex.cli.main(sys.argv[1:]); "
        "heavy = {'numpy', 'gguf', 'rich', 'pydantic', 'apex.evaluation'}; "
        "sys.exit(status or str(heavy & set(sys.modules)))"
    )
    for arguments in (["plan", dense_model], ["tiers"]):
        result = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=environment(),
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert (result.returncode, result.stderr) == (1, "set()\n")


# Numbers


@pytest.mark.parametrize(
    ("text", "binary", "decimal"),
    [
        ("1048576", 1048576, 1048576),
        ("2G", 2 << 30, 2_000_000_000),
        ("500M", 500 << 20, 500_000_000),
        ("1.5k", 1536, 1500),
        ("40GiB", 40 << 30, 40 << 30),
        ("3 MB", 3 << 20, 3_000_000),
    ],
)
def test_sizes(text: str, binary: int, decimal: int) -> None:
    assert parse_size(text, "--size") == binary
    assert parse_size(text, "--size", 1000) == decimal


@pytest.mark.parametrize("text", ["", "G", "2X", "-1G", "1e9", "2 G 3", "0", "0.1", "٣G"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="--size"):
        parse_size(text, "--size")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0.00 MiB"),
        (1536 << 10, "1.50 MiB"),
        ((1 << 30) - 1, "1024.00 MiB"),
        (1 << 30, "1.00 GiB"),
        (40 << 30, "40.00 GiB"),
        (1500 << 30, "1,500.00 GiB"),
    ],
)
def test_sizes_are_in_gib_from_one_of_them_on(size: int, text: str) -> None:
    assert cli_output.size(size) == text


def test_help_names_every_status(apex_cli: Apex) -> None:
    help_text = apex_cli("--help").stdout
    assert apex_cli().stdout == help_text
    text = " ".join(help_text.split())
    for status in (*range(10), 70, 129, 130, 143):
        assert re.search(rf"(: |, ){status} \w+", text), status


@pytest.mark.parametrize("command", ["quantize", "plan", "tiers", "inspect", "verify", "demo"])
def test_every_command_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert re.search(rf"Examples:\s+apex {command}", capsys.readouterr().out)
