"""What is left behind when things go wrong: nothing under the final name, ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from support.llama import llama_tensors, write_llama

import apex
from apex.errors import DataError, ModelFileError, OutputError, UsageError
from apex.files import checks
from apex.quantizing import setup
from apex.quantizing.sinks import FileSink

OPTIONS = {"file_type": "Q4_K_M"}


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_output_appears_whole_and_alone(dense_model: Path, tmp_path: Path) -> None:
    result = apex.quantize(dense_model, tmp_path / "new" / "folder" / "out.gguf", **OPTIONS)
    assert left_in(tmp_path / "new" / "folder") == ["out.gguf"]
    assert result.bytes == result.plan.file_bytes == result.paths[0].stat().st_size


def test_an_existing_output_is_kept(dense_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.gguf"
    output.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists already"):
        apex.quantize(dense_model, output, **OPTIONS)
    assert output.read_bytes() == b"precious"
    apex.quantize(dense_model, output, overwrite=True, **OPTIONS)
    assert output.read_bytes()[:4] == b"GGUF"
    assert left_in(tmp_path) == ["out.gguf"]


@pytest.mark.parametrize("link", ["same", "hard", "symbolic"])
def test_the_input_is_never_the_output(dense_model: Path, tmp_path: Path, link: str) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(dense_model.read_bytes())
    output = model if link == "same" else tmp_path / "other.gguf"
    if link == "hard":
        os.link(model, output)
    elif link == "symbolic":
        output.symlink_to(model)
    with pytest.raises(OutputError, match="is the input itself"):
        apex.quantize(model, output, overwrite=True, **OPTIONS)
    assert model.read_bytes() == dense_model.read_bytes()


def test_too_little_space_is_known_before_the_first_byte(
    dense_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match=r"GiB free, the output needs"):
        apex.quantize(dense_model, tmp_path / "out.gguf", **OPTIONS)
    assert left_in(tmp_path) == []


def test_a_disk_that_fills_up(
    dense_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a small disk")
    try:
        usage = type("Usage", (), {"free": 1 << 40})
        monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: usage)
        with pytest.raises(OutputError, match="became full"):
            apex.quantize(dense_model, disk / "out.gguf", **OPTIONS)
        assert left_in(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["blk.1.ffn_down.weight", "blk.0.attn_norm.weight"])
def test_weights_that_are_no_numbers(tmp_path: Path, name: str, value: float) -> None:
    tensors = llama_tensors()
    tensors[name].reshape(-1)[-7] = value
    write_llama(tmp_path / "model.gguf", tensors)
    with pytest.raises(DataError) as caught:
        apex.quantize(tmp_path / "model.gguf", tmp_path / "out.gguf", **OPTIONS)
    assert name in caught.value.message
    assert ("NaN" if np.isnan(value) else "infinite") in caught.value.message
    rows = 1 if tensors[name].ndim == 1 else tensors[name].shape[0]
    assert f"row {rows - 1}" in caught.value.message
    assert left_in(tmp_path) == ["model.gguf"]


def test_weights_too_large_for_the_type(tmp_path: Path) -> None:
    tensors = llama_tensors()
    tensors["blk.0.ffn_up.weight"] = np.full((512, 256), 3e38, np.float32)
    write_llama(tmp_path / "model.gguf", tensors)
    with pytest.raises(DataError, match=r"blk\.0\.ffn_up\.weight: .* too large"):
        apex.quantize(tmp_path / "model.gguf", tmp_path / "out.gguf", file_type="Q8_0")
    assert left_in(tmp_path) == ["model.gguf"]


def test_an_error_in_the_progress_callback_stops_the_run(dense_model: Path, tmp_path: Path) -> None:
    def stop(progress: apex.Progress) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        apex.quantize(dense_model, tmp_path / "out.gguf", progress=stop, **OPTIONS)
    assert left_in(tmp_path) == []


def test_progress_goes_from_nothing_to_all(dense_model: Path, tmp_path: Path) -> None:
    seen: list[apex.Progress] = []
    apex.quantize(dense_model, tmp_path / "out.gguf", progress=seen.append, **OPTIONS)
    done = [step.done_bytes for step in seen]
    assert done == sorted(done)
    assert done[-1] == seen[-1].total_bytes
    assert seen[-1].tensors_done == seen[-1].tensors == len({step.tensor for step in seen})


SLOW_RUN = """
import sys, time, apex
def slow(progress):
    print(progress.tensor, flush=True)
    time.sleep(60)
apex.quantize(sys.argv[1], sys.argv[2], file_type="Q4_K_M", progress=slow)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_leaves_nothing_under_the_name(
    dense_model: Path, tmp_path: Path, number: signal.Signals
) -> None:
    output = tmp_path / "out.gguf"
    command = [sys.executable, "-c", SLOW_RUN, str(dense_model), str(output)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the first slab is done, the second under way
        with pytest.raises(OutputError, match="Another process is writing"):
            apex.quantize(dense_model, output, **OPTIONS)
        process.send_signal(number)
        process.wait(30)
    assert not output.exists()
    partial = [] if number == signal.SIGINT else ["out.gguf.partial"]
    assert left_in(tmp_path) == partial
    apex.quantize(dense_model, output, **OPTIONS)  # takes over what is left
    assert left_in(tmp_path) == ["out.gguf"]


@pytest.mark.parametrize("starts", [0, 1, 2])
def test_an_interrupt_while_threads_start(
    dense_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts: int
) -> None:
    start, before = threading.Thread.start, threading.active_count()
    left = starts

    def interrupted(thread: threading.Thread) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        apex.quantize(dense_model, tmp_path / "out.gguf", backend="cpu", **OPTIONS)
    assert threading.active_count() == before
    assert left_in(tmp_path) == []


def test_a_model_that_shrinks_while_it_is_read(dense_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(dense_model.read_bytes())
    source = apex.open_model(model)
    plan = apex.plan(source, **OPTIONS)
    os.truncate(model, model.stat().st_size // 2)
    with pytest.raises(ModelFileError, match="ended while it was read"):
        apex.quantize(plan, tmp_path / "out.gguf", source=source)
    with pytest.raises(ModelFileError, match="has changed since"):
        apex.quantize(plan, tmp_path / "out.gguf")
    assert left_in(tmp_path) == ["model.gguf"]


def test_a_model_that_is_removed_is_not_the_outputs_fault(
    dense_model: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(dense_model.read_bytes())
    source = apex.open_model(model)
    plan = apex.plan(source, **OPTIONS)
    model.unlink()
    with pytest.raises(ModelFileError, match=r"model\.gguf cannot be read"):
        apex.quantize(plan, tmp_path / "out.gguf")
    with pytest.raises(ModelFileError, match=r"model\.gguf cannot be read any more"):
        apex.quantize(plan, tmp_path / "out.gguf", source=source)
    assert left_in(tmp_path) == []


def test_a_read_only_folder(
    dense_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):  # root may write anywhere
        monkeypatch.setattr(checks.os, "access", lambda path, mode: False)
    with pytest.raises(OutputError, match="read-only"):
        apex.quantize(dense_model, folder / "out.gguf", **OPTIONS)
    assert left_in(folder) == []


def test_an_interrupt_right_after_opening(
    dense_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_and_stop(sink: FileSink) -> None:
        opened(sink)
        assert left_in(tmp_path) == ["out.gguf.partial"]
        raise KeyboardInterrupt

    opened = FileSink.open
    monkeypatch.setattr(FileSink, "open", open_and_stop)
    with pytest.raises(KeyboardInterrupt):
        apex.quantize(dense_model, tmp_path / "out.gguf", **OPTIONS)
    assert left_in(tmp_path) == []


def test_the_output_may_not_be_a_folder(dense_model: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder"):
        apex.quantize(dense_model, tmp_path, overwrite=True, **OPTIONS)


def test_the_output_may_not_be_a_device(dense_model: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="not a regular file"):
        apex.quantize(dense_model, pipe, overwrite=True, **OPTIONS)
    assert left_in(tmp_path) == ["pipe"]


def test_a_plan_for_sizes_is_not_carried_out(dense_model: Path, tmp_path: Path) -> None:
    plan = apex.plan(dense_model, tier="micro", sizes_only=True)
    with pytest.raises(UsageError, match="sizes only"):
        apex.quantize(plan, tmp_path / "out.gguf")


def test_too_little_memory_names_what_is_enough(dense_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too little") as caught:
        apex.quantize(dense_model, tmp_path / "out.gguf", max_memory=1 << 20, **OPTIONS)
    enough = int("".join(filter(str.isdigit, caught.value.hint)))
    apex.quantize(dense_model, tmp_path / "out.gguf", max_memory=enough << 20, **OPTIONS)


def test_a_number_of_threads_below_zero(dense_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="-1 threads cannot work"):
        apex.quantize(dense_model, tmp_path / "out.gguf", threads=-1, **OPTIONS)
    assert left_in(tmp_path) == []


def test_slabs_and_threads_do_not_change_a_byte(
    dense_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apex.quantize(dense_model, tmp_path / "one.gguf", threads=1, **OPTIONS)
    monkeypatch.setattr(setup, "slab_bytes", lambda *_: 5000)
    apex.quantize(dense_model, tmp_path / "many.gguf", threads=5, **OPTIONS)
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "many.gguf").read_bytes()
