"""The kernels for GPUs compile, and their arithmetic is never fused or approximate.

Needs nvcc: on the PATH, or named by the environment variable CUDACXX.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support import compilers

ROOT = Path(__file__).parents[2]
NVCC = os.environ.get("CUDACXX") or shutil.which("nvcc")

# What the device would compute otherwise than IEEE 754 says, in PTX.
INEXACT = re.compile(r"\b(fma\.|mad\.\w*\.?f(32|64)|\w+\.approx|\w+[\w.]*\.ftz)")
# All that adds or multiplies floats names its rounding, so that nothing later fuses it.
UNROUNDED = re.compile(r"\b(add|sub|mul|div|sqrt)\.f32")


def inexact_lines(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if INEXACT.search(line))


def compile_for_device(source: Path, folder: Path, *options: str) -> str:
    """Compile for one architecture; the PTX."""
    assert NVCC is not None
    command = [NVCC, "-std=c++17", "-O3", "-arch=sm_90", "-Werror=all-warnings", *options]
    command += [f"-I{ROOT / 'csrc'}", f"-isystem={ROOT / 'vendor/llama.cpp/ggml/include'}"]
    command += [f"-isystem={ROOT / 'vendor/llama.cpp/ggml/src'}", "--keep", f"--keep-dir={folder}"]
    include = Path(NVCC).resolve().parents[1] / "include"
    result = subprocess.run(
        [*command, f"-isystem={include}", "-c", str(source), "-o", str(folder / "out.o")],
        capture_output=True,
        text=True,
        check=False,
        env=compilers.environment(),
    )
    assert result.returncode == 0, result.stderr
    return (folder / f"{source.stem}.ptx").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="there is no nvcc")
@pytest.mark.parametrize("source", sorted((ROOT / "csrc/cuda").glob("*.cu")), ids=lambda p: p.stem)
def test_no_fused_or_approximate_arithmetic(source: Path, tmp_path: Path) -> None:
    text = compile_for_device(source, tmp_path, "--fmad=false")
    assert inexact_lines(text) == ""
    assert UNROUNDED.search(text) is None


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="there is no nvcc")
def test_the_check_sees_what_it_looks_for(tmp_path: Path) -> None:
    source = ROOT / "csrc/cuda/q6.cu"
    assert "fma.rn.f32" in inexact_lines(compile_for_device(source, tmp_path))
    fast = tmp_path / "fast"
    fast.mkdir()
    assert ".ftz" in inexact_lines(compile_for_device(source, fast, "--use_fast_math"))
