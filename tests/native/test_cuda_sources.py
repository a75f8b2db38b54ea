"""The kernels for GPUs compile, and their arithmetic is never fused or approximate.

Needs nvcc: on the PATH, or named by the environment variable CUDACXX.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.compilers import DEVICE_SOURCES, NVCC, compile_for_device

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("nvcc"),
    pytest.mark.skipif(NVCC is None, reason="there is no nvcc"),
]

# What the device would compute otherwise than IEEE 754 says, in PTX.
INEXACT = re.compile(r"\b(fma\.|mad\.\w*\.?f(32|64)|\w+\.approx|\w+[\w.]*\.ftz)")
# All that adds or multiplies floats names its rounding, so that nothing later fuses it.
UNROUNDED = re.compile(r"\b(add|sub|mul|div|sqrt)\.f32")


def inexact_lines(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if INEXACT.search(line))


@pytest.mark.parametrize("name", DEVICE_SOURCES)
def test_no_fused_or_approximate_arithmetic(ptx_of: Callable[[str], Path], name: str) -> None:
    assert inexact_lines(ptx_of(name)) == ""
    assert UNROUNDED.search(ptx_of(name).read_text(encoding="utf-8")) is None


def test_the_check_sees_what_it_looks_for(tmp_path: Path) -> None:
    source = DEVICE_SOURCES["q6"]
    assert "fma.rn.f32" in inexact_lines(compile_for_device(source, tmp_path / "fused"))
    fast = compile_for_device(source, tmp_path / "fast", "--use_fast_math")
    assert ".ftz" in inexact_lines(fast)
