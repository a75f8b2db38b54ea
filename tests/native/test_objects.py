"""The arithmetic that decides bytes is never fused; the extension keeps its symbols to itself."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from apex import _core

ROOT = Path(__file__).parents[2]

# Fused multiply-add on x86-64 (vfmadd…, vfnmsub…) and arm64 (fmadd, fmla, …).
FUSED = re.compile(r"\s(vfn?m(add|sub)\w*|fn?m(add|sub)|fml[as])\s")


def compile_commands() -> dict[str, list[str]]:
    """Source to compiler command of the newest build in the checkout, for what decides bytes."""
    found = sorted(
        ROOT.glob("build/*/compile_commands.json"), key=lambda path: path.stat().st_mtime
    )
    if not found:
        pytest.skip("the extension was not built in this checkout")
    result = {}
    for entry in json.loads(found[-1].read_text(encoding="utf-8")):
        file = Path(entry["file"])
        if file.name in ("ggml-quants.c", "ggml.c") or ROOT / "csrc" in file.parents:
            result[str(file.relative_to(ROOT))] = shlex.split(entry["command"])
    return result


def fused_instructions(command: list[str], target: Path, extra: list[str]) -> list[str]:
    """Compile with another output and more options; the fused instructions in the object."""
    command = [
        *command[: command.index("-o") + 1],
        str(target),
        *command[command.index("-o") + 2 :],
    ]
    folder = next(ROOT.glob("build/*/compile_commands.json")).parent
    subprocess.run([*command, *extra, "-w"], check=True, cwd=folder)
    tool = shutil.which("objdump")
    if tool is None:
        pytest.skip("there is no objdump")
    text = subprocess.run([tool, "-d", str(target)], check=True, capture_output=True, text=True)
    return [match[1] for match in FUSED.finditer(text.stdout)]


def with_fma() -> list[str]:
    """What makes fused multiply-add available where it is not part of the architecture."""
    return ["-mavx2", "-mfma"] if _machine() == "x86-64" else []


def _machine() -> str:
    import platform

    return {"AMD64": "x86-64", "x86_64": "x86-64"}.get(platform.machine(), platform.machine())


GGML_QUANTS = "vendor/llama.cpp/ggml/src/ggml-quants.c"
ISA_SOURCES = [f"csrc/isa/{path.name}" for path in sorted((ROOT / "csrc/isa").glob("*.cpp"))]


@pytest.mark.slow
@pytest.mark.parametrize("name", [GGML_QUANTS, "csrc/engine/rows.cpp", *ISA_SOURCES])
def test_no_byte_depends_on_fused_arithmetic(tmp_path: Path, name: str) -> None:
    commands = compile_commands()
    if name in ISA_SOURCES and name not in commands:
        pytest.skip("this instruction set is another architecture's")
    assert fused_instructions(commands[name], tmp_path / "off.o", with_fma()) == []


@pytest.mark.slow
def test_fused_arithmetic_would_be_seen(tmp_path: Path) -> None:
    """Without our option the same source does fuse."""
    options = [*with_fma(), "-ffp-contract=fast"]
    fused = fused_instructions(compile_commands()[GGML_QUANTS], tmp_path / "on.o", options)
    assert len(fused) > 100


def test_the_kernels_of_an_instruction_set_or_more_are_compiled() -> None:
    assert len([name for name in ISA_SOURCES if name in compile_commands()]) >= 2


def test_every_source_that_decides_bytes_is_compiled_without_contraction() -> None:
    commands = compile_commands()
    assert len(commands) > 10
    steering = ("-ffp-contract", "-ffast", "-Ofast", "--fmad", "--use_fast_math", "--ftz", "--prec")
    for name, command in commands.items():
        options = [option for option in command if option.startswith(steering)]
        is_for_gpus = Path(command[0]).name == "nvcc"
        assert options == ["--fmad=false" if is_for_gpus else "-ffp-contract=off"], name


@pytest.mark.skipif(sys.platform != "linux", reason="reads an ELF file")
def test_only_the_entry_point_is_visible() -> None:
    tool = shutil.which("nm")
    if tool is None:
        pytest.skip("there is no nm")
    command = [tool, "-D", "--defined-only", "--format=posix", str(_core.__file__)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert [line.split()[0] for line in text.splitlines()] == ["PyInit__core"]
