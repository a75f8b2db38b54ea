"""Every type on every instruction set of this CPU: ggml's bytes, on inputs that break kernels."""

from __future__ import annotations

import os
import pickle
import platform
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import kernels

import apex
from apex import _core

pytestmark = pytest.mark.xdist_group("ggml")

SCRIPT = Path(kernels.__file__)
ISAS = _core.available_isas()
RANDOM_CASES, SEED = 2000, 0


def run(*arguments: str, isa: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "APEX_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def expected() -> list[np.ndarray | None]:
    """What ggml makes of every case."""
    return [kernels.ggml_bytes(case) for case in kernels.cases(RANDOM_CASES, SEED)]


@pytest.mark.parametrize("isa", ISAS)
def test_bytes_are_those_of_ggml(
    isa: str, expected: list[np.ndarray | None], tmp_path: Path
) -> None:
    file = tmp_path / "made"
    options = ("--write", str(file), "--cases", str(RANDOM_CASES), "--seed", str(SEED))
    result = run(str(SCRIPT), *options, isa=isa)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [isa]  # what really ran
    made = pickle.loads(file.read_bytes())
    cases = kernels.cases(RANDOM_CASES, SEED)
    found = map(kernels.difference, cases, made, expected)
    assert len(made) == len(expected)
    assert [line for line in found if line] == []


def test_most_of_what_is_compared_is_written(expected: list[np.ndarray | None]) -> None:
    written = [data for data in expected if data is not None]
    assert len(written) > 0.8 * len(expected)


def test_a_difference_would_be_seen() -> None:
    x = kernels.weights("normal", 2, 512, 0)
    case = kernels.Case("normal", "Q4_K", x, kernels.importance("lognormal", 512, 0))
    expected = kernels.ggml_bytes(case)
    assert kernels.difference(case, kernels.apex_bytes(case), expected) is None
    other = replace(case, weight=np.roll(case.weight, 1))
    assert "blocks" in str(kernels.difference(case, kernels.apex_bytes(other), expected))
    assert "refused" in str(kernels.difference(case, "refused", expected))
    assert "accepted" in str(kernels.difference(case, kernels.apex_bytes(case), None))


def test_this_machine_tests_more_than_one_width() -> None:
    assert ISAS[0] == "scalar"
    assert len(ISAS) >= 2


@pytest.mark.parametrize("name", ["avx1024", "AVX2 ", "ggml"])
def test_an_unknown_instruction_set_is_an_error(name: str) -> None:
    code = (
        "import apex\n"
        "try: apex.cpu_info()\n"
        "except apex.UsageError as error: print(error.message); print(error.hint)"
    )
    message, hint = run("-c", code, isa=name).stdout.splitlines()
    assert f"'{name}'" in message
    assert "scalar" in message
    assert "APEX_ISA" in hint


# What the kernel of the operating system calls the instructions of each set, from narrow to wide.
WIDER = {
    "avx2": {"avx2", "f16c"},
    "avx512": {"avx2", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"},
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/cpuinfo")
def test_the_instruction_sets_are_those_that_linux_sees() -> None:
    if platform.machine() == "x86_64":
        line = re.search(r"^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
        assert line is not None
        flags = set(line[1].split())
        expected = [
            "scalar",
            "baseline",
            *(isa for isa, needed in WIDER.items() if needed <= flags),
        ]
    else:
        expected = ["scalar", "neon"]
    info = apex.cpu_info()
    assert list(info.available) == expected
    assert info.isa == os.environ.get("APEX_ISA", expected[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which processors may be used")
def test_the_threads_are_the_processors_that_this_thread_may_use() -> None:
    usable = os.sched_getaffinity(0)
    assert apex.cpu_info().threads == len(usable)
    try:
        os.sched_setaffinity(0, {min(usable)})
        assert apex.cpu_info().threads == 1
    finally:
        os.sched_setaffinity(0, usable)


@pytest.mark.parametrize("source", ["F16", "BF16"])
def test_conversions_are_exact_for_every_bit_pattern(source: str) -> None:
    patterns = np.arange(1 << 16, dtype=np.uint16)
    exponent = 0x7C00 if source == "F16" else 0x7F80
    patterns = patterns[(patterns & exponent) != exponent]
    patterns = np.resize(patterns, (patterns.size + 255) // 256 * 256)
    if source == "F16":
        expected = patterns.view(np.float16).astype(np.float32)
    else:
        expected = (patterns.astype(np.uint32) << 16).view(np.float32)
    found = _core.quantize(patterns.view(np.uint8), "F32", src_type=source, shape=(patterns.size,))
    assert np.array_equal(found.view(np.uint32), expected.view(np.uint32))
