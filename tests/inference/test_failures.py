"""What is said where libllama cannot run a model."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from support.commands import COMMAND, environment
from support.language import write_text

from apex import _core
from apex.errors import RunError, UsageError
from apex.inference import RunOptions, load_model, running


def test_more_layers_than_libllama_can_run(language_model: Path, tmp_path: Path) -> None:
    data, key = bytearray(language_model.read_bytes()), b"llama.block_count"
    place = data.index(key) + len(key) + 4  # the type comes before the value
    path = tmp_path / "deep.gguf"
    for layers in (10_000, 0):
        struct.pack_into("<I", data, place, layers)
        path.write_bytes(data)
        with pytest.raises(RunError) as error:
            load_model(path)
        assert error.value.message == f"{path} has no layers, or more than libllama can run."
        assert "block_count" in error.value.hint


def test_one_cause_in_one_line(dense_model: Path) -> None:
    with pytest.raises(RunError) as error:
        load_model(dense_model)  # has no vocabulary
    assert error.value.message == (
        f"{dense_model}: libllama cannot load the model: key not found in model: "
        "tokenizer.ggml.model."
    )


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("libllama cannot run the model", "m: libllama cannot run the model."),
        (
            "libllama cannot make a context: ggml.c:7: GGML_ASSERT(a > 0) failed\nllama_x: failed",
            "m: libllama cannot make a context: its check that a > 0 failed.",
        ),
        (
            "libllama cannot make a context: ggml_aligned_malloc: insufficient memory (attempted "
            "to allocate 3158.56 MB)\nggml.c:1644: GGML_ASSERT(ctx->mem_buffer != NULL) failed",
            "There is not enough memory to run m.",
        ),
    ],
)
def test_what_libllama_logs(log: str, message: str) -> None:
    with pytest.raises(RunError) as error, running(Path("m")):
        raise _core.ModelError(log)
    assert error.value.message == message


def test_too_little_memory(demo_model: Path, tmp_path: Path) -> None:
    """Less than is free, because this process may not have it."""
    resource = pytest.importorskip("resource")
    write_text(tmp_path / "text.txt", 14_000)
    limit = 1 << 30
    command = [*COMMAND, "eval", str(demo_model), "-f", "text.txt", "-c", "4096", "-b", "65536"]
    result = subprocess.run(
        [*command, "-ub", "65536", "-ctk", "f32", "--chunks", "1"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert result.returncode == 8, result.stderr
    assert f"There is not enough memory to run {demo_model}" in result.stderr
    assert "\\n" not in result.stderr and "GGML" not in result.stderr


def test_what_cannot_be_asked_for() -> None:
    for wrong, message in (
        ({"context_length": 0}, "The context length must be at least 1"),
        ({"threads": -1}, "threads must not be negative"),
        ({"cache_type_k": "Q9_Z"}, "no KV cache type Q9_Z"),
    ):
        with pytest.raises(UsageError, match=message):
            RunOptions(**wrong)
