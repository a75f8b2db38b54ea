"""The extension's own contract: buffers, shapes, checks, threads, floating-point mode."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from apex import _core

RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.standard_normal((3, 8, 512)).astype(np.float32)


def test_type_facts_agree_with_the_gguf_package() -> None:
    ours = {facts.name: facts for facts in _core.tensor_types()}
    for kind, (block_weights, block_bytes) in gguf.GGML_QUANT_SIZES.items():
        if kind is gguf.GGMLQuantizationType.Q8_1:  # the package has the size of an older ggml
            continue
        facts = ours[kind.name]
        assert (facts.id, facts.block_weights, facts.block_bytes) == (
            kind,
            block_weights,
            block_bytes,
        )


def test_file_types_agree_with_the_gguf_package() -> None:
    known = {
        name.partition("_")[2]: value for name, value in gguf.LlamaFileType.__members__.items()
    }
    ours = {file_type.name: file_type.id for file_type in _core.file_types()}
    shared = ours.keys() & known.keys()
    assert len(shared) > 30
    assert {name: ours[name] for name in shared} == {name: int(known[name]) for name in shared}


@pytest.mark.parametrize("shape", [(512,), (8, 512), (3, 8, 512)])
def test_shapes_in_are_shapes_out(shape: tuple[int, ...]) -> None:
    weights = np.resize(WEIGHTS, shape)
    packed = _core.quantize(weights, "Q4_K")
    assert packed.dtype == np.uint8
    assert packed.shape == (*shape[:-1], 288)
    back = _core.dequantize(packed, "Q4_K")
    assert back.dtype == np.float32
    assert back.shape == shape
    assert np.abs(back - weights).max() < 0.5


def test_all_kinds_of_buffers_give_the_same_bytes(tmp_path: Path) -> None:
    half = WEIGHTS.astype(np.float16)
    expected = _core.quantize(half.astype(np.float32), "Q5_K")
    path = tmp_path / "weights"
    path.write_bytes(half.tobytes())
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        for source in (
            half.tobytes(),
            bytearray(half.tobytes()),
            memoryview(half.tobytes()),
            mapped,
        ):
            packed = _core.quantize(source, "Q5_K", src_type="F16", shape=half.shape)
            assert np.array_equal(packed, expected)
    assert np.array_equal(_core.quantize(half, "Q5_K"), expected)


def test_bfloat16_is_read_by_name() -> None:
    rounded = (WEIGHTS.view(np.uint32) >> 16).astype(np.uint16)
    exact = (rounded.astype(np.uint32) << 16).view(np.float32)
    packed = _core.quantize(rounded, "Q6_K", src_type="BF16")
    assert np.array_equal(packed, _core.quantize(exact, "Q6_K"))


def test_every_expert_has_its_own_importance() -> None:
    importance = RANDOM.lognormal(size=(3, 512)).astype(np.float32)
    whole = _core.quantize(WEIGHTS, "IQ2_XXS", importance)
    for expert in range(3):
        alone = _core.quantize(WEIGHTS[expert], "IQ2_XXS", importance[expert])
        assert np.array_equal(whole[expert], alone)
    shared = _core.quantize(WEIGHTS, "IQ2_XXS", importance[1])
    assert np.array_equal(shared[1], whole[1])
    assert not np.array_equal(shared[0], whole[0])


def test_the_callers_output_is_filled() -> None:
    out = bytearray(3 * 8 * 288)
    assert _core.quantize(WEIGHTS, "Q4_K", out=out) is out
    assert bytes(out) == _core.quantize(WEIGHTS, "Q4_K").tobytes()


BAD_ARGUMENTS: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "unknown type": (lambda: _core.quantize(WEIGHTS, "Q9_K"), ValueError, "no tensor type 'Q9_K'"),
    "type of integers": (
        lambda: _core.quantize(WEIGHTS, "I32"),
        ValueError,
        "I32 cannot be written",
    ),
    "type of activations": (
        lambda: _core.quantize(WEIGHTS, "Q8_K"),
        ValueError,
        "Q8_K cannot be written",
    ),
    "type that needs importance": (
        lambda: _core.quantize(WEIGHTS, "IQ2_XXS"),
        ValueError,
        "IQ2_XXS needs an importance",
    ),
    "rows that are not whole blocks": (
        lambda: _core.quantize(WEIGHTS[:, :, :100].copy(), "Q4_K"),
        ValueError,
        "whole blocks of Q4_K",
    ),
    "rows apart in memory": (
        lambda: _core.quantize(WEIGHTS[:, ::2], "Q4_K"),
        ValueError,
        "C-contiguous",
    ),
    "four dimensions": (
        lambda: _core.quantize(WEIGHTS[None], "Q4_K"),
        ValueError,
        "1, 2 or 3 dimensions",
    ),
    "double precision": (
        lambda: _core.quantize(WEIGHTS.astype(np.float64), "Q4_K"),
        TypeError,
        "float32 or float16",
    ),
    "rows of no columns": (
        lambda: _core.quantize(WEIGHTS[:, :0], "Q4_K"),
        ValueError,
        "must be positive",
    ),
    "nothing at all": (
        lambda: _core.quantize(b"", "Q4_K", src_type="F16", shape=(0,)),
        ValueError,
        "must be positive",
    ),
    "less than the shape asks for": (
        lambda: _core.quantize(b"12", "Q4_K", src_type="F16", shape=(2, 256)),
        ValueError,
        "ask for 1024",
    ),
    "a shape beyond any memory": (
        lambda: _core.quantize(WEIGHTS, "Q4_K", shape=(1 << 50,)),
        ValueError,
        "must be positive",
    ),
    "importance of another length": (
        lambda: _core.quantize(WEIGHTS, "Q4_K", WEIGHTS[0, 0, :9]),
        ValueError,
        "importance has 9",
    ),
    "negative importance": (
        lambda: _core.quantize(WEIGHTS, "Q4_K", -WEIGHTS[0, 0]),
        ValueError,
        "finite and not negative",
    ),
    "importance that is not finite": (
        lambda: _core.quantize(WEIGHTS, "Q4_K", np.full(512, np.nan, "f")),
        ValueError,
        "finite",
    ),
    "importance in double precision": (
        lambda: _core.quantize(WEIGHTS, "Q4_K", np.ones(512)),
        TypeError,
        "importance must be float32",
    ),
    "output that is too small": (
        lambda: _core.quantize(WEIGHTS, "Q4_K", out=bytearray(5)),
        ValueError,
        "output has 5 bytes",
    ),
    "output that cannot be written": (
        lambda: _core.quantize(WEIGHTS, "Q4_K", out=bytes(3 * 8 * 288)),
        BufferError,
        "",
    ),
    "weights at an odd address": (
        lambda: _core.quantize(bytes(1025)[1:], "Q4_K", src_type="F32", shape=(256,)),
        ValueError,
        "",
    ),
    "blocks cut in the middle": (
        lambda: _core.dequantize(b"1" * 18, "Q4_K", shape=(32,)),
        ValueError,
        "whole blocks",
    ),
    "integers": (
        lambda: _core.dequantize(b"1" * 32, "I32", shape=(8,)),
        ValueError,
        "cannot be read",
    ),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_bad_arguments_are_refused(name: str) -> None:
    call, kind, message = BAD_ARGUMENTS[name]
    try:
        call()
    except kind as error:
        assert message in str(error)
    else:
        assert message == "", "the call went through"  # an unaligned copy may come out aligned


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_found(value: float) -> None:
    for kind in (np.float32, np.float16):
        weights = WEIGHTS.astype(kind)
        weights[2, 5, 7] = value
        weights[2, 6, 7] = value
        for call in (lambda w: _core.quantize(w, "Q4_0", threads=3), _core.check):
            with pytest.raises(_core.BadDataError, match=r"NaN|infinite") as caught:
                call(weights)
            assert caught.value.row == 2 * 8 + 5
    _core.check(WEIGHTS)


def test_a_damaged_block_is_found() -> None:
    packed = _core.quantize(WEIGHTS, "Q8_0")
    _core.check(packed, "Q8_0")
    packed[1, 3, :2] = (0x00, 0x7C)  # an infinite scale
    with pytest.raises(_core.BadDataError, match="Q8_0 is damaged"):
        _core.check(packed, "Q8_0")


def test_comparison_by_hand() -> None:
    reference = np.zeros((2, 300), np.float32)
    reference[0, 0], reference[1, 299] = 3, 4
    quantized = reference.copy()
    quantized[1, 290] = 2
    importance = np.ones(300, np.float32)
    importance[290] = 10
    result = _core.compare(quantized, "F32", reference, "F32", (2, 300), importance)
    assert (result.error, result.reference) == (4, 25)
    assert (result.weighted_error, result.weighted_reference) == (40, 25)
    assert (result.worst_error, result.worst_row, result.worst_column) == (4, 1, 256)
    quantized[0, 5] = np.nan
    assert _core.compare(quantized, "F32", reference, "F32", (2, 300)).bad_values == 1


def test_many_python_threads_at_once() -> None:
    expected = _core.quantize(WEIGHTS, "Q3_K", threads=1)
    results: list[bool] = []

    def work() -> None:
        for _ in range(20):
            results.append(np.array_equal(_core.quantize(WEIGHTS, "Q3_K", threads=3), expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 80


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own() -> None:
    expected = _core.quantize(WEIGHTS, "Q3_K", threads=3)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(_core.quantize(WEIGHTS, "Q3_K", threads=3), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_bytes_do_not_depend_on_flush_to_zero(tmp_path: Path) -> None:
    """Loading a library that was linked with -Ofast turns denormals off in this thread."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no gcc")
    weights = (WEIGHTS * np.float32(1e-41)).astype(np.float32)
    expected = [_core.quantize(weights, kind, threads=2) for kind in ("Q8_0", "F32", "BF16")]
    source, library = tmp_path / "fast.c", tmp_path / "fast.so"
    source.write_text("int fast;\n")
    command = [compiler, "-Ofast", "-shared", "-fPIC", str(source), "-o", str(library)]
    subprocess.run(command, check=True)

    flushed: list[bool] = []
    same: list[bool] = []

    def work() -> None:
        ctypes.CDLL(str(library))
        flushed.append(float(np.float32(1e-41) * np.float32(0.5)) == 0.0)
        for kind, bytes_before in zip(("Q8_0", "F32", "BF16"), expected, strict=True):
            same.append(np.array_equal(_core.quantize(weights, kind, threads=1), bytes_before))

    thread = threading.Thread(target=work)  # the mode is the thread's own
    thread.start()
    thread.join()
    if flushed != [True]:
        pytest.skip("this compiler's -Ofast does not change the mode")
    assert same == [True] * 3
