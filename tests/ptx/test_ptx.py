"""What nvcc makes of the kernels for GPUs, run on the processor: the bytes, and no hazards.

An interpreter (operations.cpp) runs the PTX thread by thread with the arithmetic of a GPU, down to
its NaN, and watches every access to memory (memory.h). That ptxas and the GPU keep what PTX says is
not tested here. Needs nvcc: on the PATH, or named by the environment variable CUDACXX.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ptx import launcher
from ptx.launcher import Kernels, Result
from support import compilers, kernels

from apex import _core

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("nvcc"),
    pytest.mark.skipif(launcher.NVCC is None, reason="there is no nvcc"),
    pytest.mark.skipif(launcher.GXX is None or launcher.NM is None, reason="there is no g++"),
]

CASES = [
    (type_name, weighted)
    for type_name in kernels.TYPES
    for weighted in (False, True)
    if weighted or not kernels.FACTS[type_name].needs_importance
]
IMPORTANCES = {False: ["none"], True: ["lognormal", "zero", "zero in part", "mixed"]}


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launcher.build(tmp_path_factory.mktemp("launcher"))


@pytest.fixture(scope="session")
def texts(ptx_of: Callable[[str], Path]) -> dict[str, Path]:
    """PTX by the names of the sources."""
    return {source.stem: ptx_of(source.stem) for source in launcher.KERNEL_SOURCES}


@pytest.fixture(scope="session")
def compiled(library: Path, texts: dict[str, Path]) -> Kernels:
    return Kernels(library, texts.values())


def expected_bytes(
    x: np.ndarray, type_name: str, weight: np.ndarray | None, source: str = "F32"
) -> np.ndarray | None:
    """None where the processor refuses the weights."""
    given = x if source == "F32" else x.view(np.uint8)
    try:
        return _core.quantize(given, type_name, weight, src_type=source, shape=x.shape, threads=1)
    except ValueError:
        return None


def complaint(found: Result, expected: np.ndarray | None) -> str | None:
    if found.hazards:
        return found.first_hazard
    if expected is None:
        return "vouches for what the processor refuses" if found.is_sound else None
    if not found.is_sound:
        return "does not vouch for what the processor accepts"
    different = int((found.values != expected).sum())
    return f"{different} of {expected.size} bytes differ" if different else None


def difference(
    compiled: Kernels,
    x: np.ndarray,
    type_name: str,
    weight: np.ndarray | None,
    source: str = "F32",
) -> str | None:
    """What the PTX does other than the processor, in either order of threads; None if nothing."""
    expected = expected_bytes(x, type_name, weight, source)
    for backwards in (False, True):
        found = compiled.quantize(x, type_name, weight, source=source, backwards=backwards)
        wrong = complaint(found, expected)
        if wrong:
            return f"{wrong}{', threads backwards' if backwards else ''}"
    return None


def halved(x: np.ndarray, source: str) -> np.ndarray:
    """float32 as uint16 of a type of half the size; what is too large for it becomes smaller."""
    if source == "BF16":
        return (x.view(np.uint32) >> 16).astype(np.uint16)
    return np.clip(x, -6e4, 6e4).astype(np.float16).view(np.uint16)


@pytest.mark.parametrize(("type_name", "weighted"), CASES)
def test_bytes_are_those_of_the_processor(
    compiled: Kernels, type_name: str, weighted: bool
) -> None:
    found = [
        f"{name}, importance {weight_name}: {wrong}"
        for seed, name in enumerate(kernels.INPUTS)
        for weight_name in IMPORTANCES[weighted]
        if (
            wrong := difference(
                compiled,
                kernels.weights(name, 1, 512, seed),
                type_name,
                kernels.importance(weight_name, 512, seed),
            )
        )
    ]
    assert not found


@pytest.mark.parametrize(("type_name", "weighted"), CASES)
def test_several_thread_blocks_experts_and_rows_of_any_length(
    compiled: Kernels, type_name: str, weighted: bool
) -> None:
    step = kernels.FACTS[type_name].block_weights
    shapes = [(3, 2, 1), (3, 1, 7), (2, 1, 9)]  # experts, rows, blocks; two thread blocks of Q6_K
    if step == 32:
        shapes += [(3, 5, 9)]  # two of Q4_0, and fewer threads at work in the second
    for seed, (experts, rows, blocks) in enumerate(shapes):
        columns = blocks * step
        x = np.stack(
            [
                kernels.weights(name, rows, columns, seed)
                for name in ("normal", "mixed zeros", "heavy tailed")[:experts]
            ]
        )
        importances = [kernels.importance("lognormal", columns, seed + e) for e in range(experts)]
        weight = np.stack(importances) if weighted else None
        assert difference(compiled, x, type_name, weight) is None


@pytest.mark.parametrize("source", ["F16", "BF16"])
@pytest.mark.parametrize(("type_name", "weighted"), CASES)
def test_half_precision_sources(
    compiled: Kernels, source: str, type_name: str, weighted: bool
) -> None:
    names = ("normal", "mixed zeros", "denormal", "binary16")
    x = np.concatenate([kernels.weights(name, 1, 256, 3) for name in names])
    weight = kernels.importance("lognormal", 256, 3) if weighted else None
    assert difference(compiled, halved(x, source), type_name, weight, source) is None


@pytest.mark.parametrize(("type_name", "weighted"), CASES)
def test_weights_that_are_no_numbers_are_told(
    compiled: Kernels, type_name: str, weighted: bool
) -> None:
    weight = kernels.importance("lognormal", 256, 0) if weighted else None
    for source, value, place in (
        ("F32", np.nan, 0),
        ("F32", -np.inf, 511),
        ("F16", np.inf, 100),
        ("F16", np.nan, 511),
        ("BF16", np.nan, 300),
        ("BF16", np.inf, 7),
    ):
        x = kernels.weights("normal", 2, 256, 0)
        data = x if source == "F32" else halved(x, source)
        bad = {"F32": value, "F16": np.float16(value).view(np.uint16)}
        bad["BF16"] = np.float32(value).view(np.uint32) >> 16
        data.reshape(-1)[place] = bad[source]
        found = compiled.quantize(data, type_name, weight, source=source)
        assert not found.is_sound
        assert not found.hazards


@pytest.mark.parametrize("type_name", kernels.TYPES)
def test_dequantizing(compiled: Kernels, type_name: str) -> None:
    """Blocks of weights, and bytes as they come."""
    weight = kernels.importance("lognormal", 512, 3)
    quantized = _core.quantize(kernels.weights("heavy tailed", 5, 512, 3), type_name, weight)
    noise = np.random.default_rng(8).integers(0, 256, quantized.shape, dtype=np.uint8)
    for backwards, blocks in enumerate((quantized, noise)):
        found = compiled.dequantize(blocks, type_name, backwards=bool(backwards)).values
        expected = _core.dequantize(blocks, type_name)
        same = found.view(np.uint32) == expected.view(np.uint32)
        assert (same | (np.isnan(found) & np.isnan(expected))).all()


@pytest.mark.parametrize("columns", [1, 31, 300])
@pytest.mark.parametrize("experts", [0, 5])
def test_sums_of_squares(compiled: Kernels, columns: int, experts: int) -> None:
    random = np.random.default_rng(columns)
    processor = _core.Accumulator()
    matrices = max(experts, 1)
    sums, counts = np.zeros((matrices, columns), np.float32), np.zeros(matrices, np.int64)
    for rows in (1, 40, 77):
        sizes = 10.0 ** random.uniform(-8, 8, (rows, 1))
        x = (random.standard_normal((rows, columns)) * sizes).astype(np.float32)
        ids = random.integers(0, experts, rows).astype(np.int32) if experts else None
        processor.add("a", x, ids, experts)
        found = compiled.add_squares(sums, counts, x, ids, backwards=rows == 40)
        assert not found.hazards
    expected_sums, expected_counts = processor.entries()["a"]
    assert np.array_equal(sums.view(np.uint32), expected_sums.view(np.uint32))
    assert np.array_equal(counts, expected_counts)


# That all of this sees something: kernels and texts that are wrong.


def variant(
    folder: Path, source: str, header: str, text: str, instead: str, library: Path
) -> Kernels:
    """A source compiled with another text in one of its headers."""
    original = (launcher.ROOT / "csrc" / header).read_text(encoding="utf-8")
    assert original.count(text) == 1
    changed = folder / "changed" / header
    changed.parent.mkdir(parents=True)
    changed.write_text(original.replace(text, instead), encoding="utf-8")
    options = ("--fmad=false", f"-I{folder / 'changed'}")  # looked into first
    path = compilers.compile_for_device(compilers.DEVICE_SOURCES[source], folder / "ptx", *options)
    return Kernels(library, [path])


def test_the_nan_of_a_gpu_would_be_seen(library: Path, tmp_path: Path) -> None:
    """Rounding takes integers from the mantissa of a sum, which may be a NaN's."""
    careless = variant(
        *(tmp_path, "q2_q3", "lane/lanes.h"),
        *("return sum != sum ? middle : sum;", "return sum;"),
        library,
    )
    x = kernels.weights("denormal", 1, 512, 0)
    assert "bytes differ" in str(difference(careless, x, "Q2_K", None))


def test_a_missing_barrier_would_be_seen(library: Path, tmp_path: Path) -> None:
    careless = variant(tmp_path, "q6", "cuda/thread_block.h", "__syncthreads();", "", library)
    x = kernels.weights("normal", 1, 512, 0)
    for backwards in (False, True):
        found = careless.quantize(x, "Q6_K", backwards=backwards)
        assert found.hazards
        assert "shared memory" in found.first_hazard


def test_an_addition_that_is_not_atomic_would_be_seen(library: Path, tmp_path: Path) -> None:
    careless = variant(
        *(tmp_path, "iq3", "cuda/thread_block.h"),
        *("return atomicAdd(counter, count);", "return (*counter += count) - count;"),
        library,
    )
    x = kernels.weights("normal", 1, 512, 0)
    assert careless.quantize(x, "IQ3_S").hazards


def changed_squares(
    library: Path, texts: dict[str, Path], folder: Path, pattern: str, instead: str
) -> Kernels:
    """The PTX of the sums, with something else in its place wherever it occurs."""
    text, count = re.subn(pattern, instead, texts["squares"].read_text(encoding="utf-8"))
    assert count
    changed = folder / "squares.ptx"
    changed.write_text(text, encoding="utf-8")
    return Kernels(library, [changed])


@pytest.mark.parametrize(
    ("pattern", "instead", "message"),
    [
        (r"add\.rn\.f32", "add.f32", "unknown instruction"),
        (r"mul\.rn\.f32", "mul.rn.ftz.f32", "unknown instruction"),
        (r"div\.rn\.f32", "div.approx.f32", "unknown instruction"),
        (r"mul\.rn\.f32", "fma.rn.f32", "unknown instruction"),
        (r"%tid\.x", "%tid.y", "unknown register"),
        (r"\.maxntid", ".maxnreg", "unknown line"),
    ],
)
def test_what_is_not_known_is_refused(
    library: Path,
    texts: dict[str, Path],
    tmp_path: Path,
    pattern: str,
    instead: str,
    message: str,
) -> None:
    with pytest.raises(launcher.PtxError, match=message):
        changed_squares(library, texts, tmp_path, pattern, instead)


@pytest.mark.parametrize(
    ("pattern", "instead", "message"),
    [
        (r"(st\.global\.f32\s+\[%rd\d+)", r"\1+65536", "nothing of global memory"),
        (r"(st\.global\.f32\s+\[%rd\d+)", r"\1+-65536", "nothing of global memory"),
        (r"(st\.global\.f32\s+\[%rd\d+)", r"\1+2", "not a multiple of 4"),
        (r"st\.global\.f32(\s+)\[%rd\d+", r"st.shared.f32\1[%ntid.x", "of the block's 0"),
        (
            *(r"bar\.sync", "setp.eq.u32 %p1, %tid.x, 7;\n@%p1 ret;\nbar.sync"),
            "threads 0 and 7 of .* wait at different places",
        ),
    ],
)
def test_what_a_gpu_does_not_forgive_is_refused(
    library: Path,
    texts: dict[str, Path],
    tmp_path: Path,
    pattern: str,
    instead: str,
    message: str,
) -> None:
    changed = changed_squares(library, texts, tmp_path, pattern, instead)
    sums, counts = np.zeros((1, 100), np.float32), np.zeros(1, np.int64)
    with pytest.raises(launcher.PtxError, match=message):
        changed.add_squares(sums, counts, np.ones((3, 100), np.float32))
