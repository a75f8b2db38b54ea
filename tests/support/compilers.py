"""For tests that call compilers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
NVCC = os.environ.get("CUDACXX") or shutil.which("nvcc")
DEVICE_SOURCES = {path.stem: path for path in sorted((ROOT / "csrc/cuda").glob("*.cu"))}


def environment() -> dict[str, str]:
    """The environment for a compiler: the sanitizers' runtime, loaded before everything in
    tests/sanitized, lets nvcc crash."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def compile_for_device(source: Path, folder: Path, *options: str) -> Path:
    """Compile with nvcc for one architecture, for host and device; the file of PTX."""
    assert NVCC is not None
    folder.mkdir(parents=True)
    command = [NVCC, "-std=c++17", "-O3", "-arch=sm_90", "-Werror=all-warnings", *options]
    command += [f"-I{ROOT / 'csrc'}", f"-isystem={ROOT / 'vendor/llama.cpp/ggml/include'}"]
    command += [f"-isystem={ROOT / 'vendor/llama.cpp/ggml/src'}", "--keep", f"--keep-dir={folder}"]
    include = Path(NVCC).resolve().parents[1] / "include"
    result = subprocess.run(
        [*command, f"-isystem={include}", "-c", str(source), "-o", str(folder / "out.o")],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert result.returncode == 0, result.stderr
    return folder / f"{source.stem}.ptx"
