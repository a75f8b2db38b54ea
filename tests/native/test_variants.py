"""The variants of llama.cpp's CPU backend in a build for any CPU (APEX_NATIVE=OFF)."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from apex import _core

ROOT = Path(__file__).parents[2]
VARIANTS = _core.available_variants()

portable = pytest.mark.skipif(VARIANTS == ["native"], reason="this build is for this machine alone")

# What Linux calls the instructions of each variant, and upstream calls the last of them.
NEEDED = {
    "x64": (set(), ""),
    "haswell": ({"avx2", "fma", "f16c", "bmi2"}, "AVX2"),
    "alderlake": ({"avx2", "fma", "avx_vnni"}, "AVX_VNNI"),
    "skylakex": ({"avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"}, "AVX512"),
    "cascadelake": ({"avx512f", "avx512_vnni"}, "AVX512_VNNI"),
    "cooperlake": ({"avx512f", "avx512_vnni", "avx512_bf16"}, "AVX512_BF16"),
    "sapphirerapids": ({"avx512f", "avx512_bf16", "amx_tile", "amx_int8"}, "AMX_INT8"),
}

# Which runs, what it says of itself, and the logits of a short text.
RUN = """
import json, sys
from apex import _core
import numpy as np
model = _core.Model(sys.argv[1])
context = _core.Context(model, context_length=64, threads=2)
tokens = np.arange(64, dtype=np.int32)
context.decode(tokens, tokens, np.zeros_like(tokens), np.ones(64, bool))
logits = context.logits()
print(json.dumps([_core.active_variant(), _core.inference_features(), logits.tolist()]))
"""


def run(code: str, *arguments: str, variant: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: text for name, text in os.environ.items() if name != "APEX_CPU_VARIANT"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment | ({} if variant is None else {"APEX_CPU_VARIANT": variant}),
        capture_output=True,
        text=True,
        check=False,
    )


def outcome(model: Path, variant: str | None) -> tuple[str, str, np.ndarray]:
    result = run(RUN, str(model), variant=variant)
    assert result.returncode == 0, result.stderr
    name, features, logits = json.loads(result.stdout)
    return name, features, np.array(logits)


@portable
def test_every_variant_runs_and_the_widest_is_chosen(language_model: Path) -> None:
    name, features, expected = outcome(language_model, None)
    assert name == VARIANTS[-1]
    for variant in VARIANTS:
        name, theirs, logits = outcome(language_model, variant)
        assert name == variant
        assert NEEDED.get(variant, (set(), ""))[1] in theirs
        assert (theirs == features) == (variant == VARIANTS[-1])
        # Sums have another order, so the low digits differ; nothing else does.
        assert np.abs(logits - expected).max() < 2e-2 * np.abs(expected).max()
        if variant == VARIANTS[-1]:
            assert np.array_equal(logits, expected)


@portable
@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="reads /proc/cpuinfo"
)
def test_those_that_run_are_those_that_linux_allows() -> None:
    line = re.search(r"^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    assert line is not None
    flags = set(line[1].split())
    allowed = [name for name, (needed, _) in NEEDED.items() if needed <= flags]
    assert [name for name in allowed if name in VARIANTS] == VARIANTS
    assert VARIANTS[0] == "x64"
    assert VARIANTS[-1] == allowed[-1]


@pytest.mark.parametrize("name", ["haswel", "HASWELL", "sse"])
def test_an_unknown_variant_is_an_error(name: str) -> None:
    code = (
        "import apex\n"
        "try: apex.cpu_info()\n"
        "except apex.UsageError as error: print(error.message); print(error.hint)"
    )
    message, hint = run(code, variant=name).stdout.splitlines()
    assert f"'{name}'" in message
    assert VARIANTS[0] in message
    assert "APEX_CPU_VARIANT" in hint


def objects() -> list[Path]:
    builds = sorted(ROOT.glob("build/*/vendor/llama.cpp"), key=lambda path: path.stat().st_mtime)
    found = sorted(builds[-1].glob("cpu-*.o")) if builds else []
    if not found or shutil.which("nm") is None or shutil.which("readelf") is None:
        pytest.skip("there are no objects of variants, or no binutils to read them")
    return found


@portable
def test_no_code_of_a_variant_can_run_before_it_is_chosen() -> None:
    """Each keeps its functions to itself, those of the C++ library too, and has no constructors."""
    for path in objects():
        name = path.stem.removeprefix("cpu-")
        command = ["nm", "--extern-only", "--defined-only", "--format=posix", str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        symbols = [line.split()[:2] for line in text.splitlines()]
        code = {symbol for symbol, kind in symbols if kind in "TtWw"}
        assert len(code) == 5
        assert all(symbol.startswith(f"{name}_ggml_") for symbol in code)
        command = ["readelf", "--sections", "--wide", str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert ".text" in text
        assert re.search(r"\.init_array|\.ctors|\bGROUP\b", text) is None
