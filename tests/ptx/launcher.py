"""The kernels for GPUs as nvcc compiles them, run by the interpreter beside this file.

`build` makes a library of the interpreter, the launcher and the lists of csrc/cuda, and `Kernels`
launches what is in PTX by means of it.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from support import compilers
from support.kernels import FACTS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NVCC = compilers.NVCC
GXX = shutil.which("g++")
NM = shutil.which("nm")

# Where the kernels are; what includes the runtime is the host's part.
KERNEL_SOURCES = [
    path
    for path in compilers.DEVICE_SOURCES.values()
    if '"cuda/runtime.h"' not in path.read_text(encoding="utf-8")
]
SOURCE_TYPES = ["F32", "F16", "BF16"]  # in the order of the enum in csrc/cuda/arguments.h

_INCLUDES = [
    f"-I{ROOT / 'csrc'}",
    *("-isystem", str(ROOT / "vendor/llama.cpp/ggml/include")),
    *("-isystem", str(ROOT / "vendor/llama.cpp/ggml/src")),
]


def _run(*command: str | Path) -> str:
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env=compilers.environment()
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def _side_by_side(compile_one: Callable[[Path], Path], sources: Iterable[Path]) -> list[Path]:
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(compile_one, sources))


def build(folder: Path) -> Path:
    """The library, from sources of the tests and of the project."""

    def compile_one(source: Path) -> Path:
        assert GXX is not None
        target = folder / f"{source.parent.name}_{source.stem}.o"
        command = [GXX, "-std=c++17", "-fPIC", "-ffp-contract=off", *_INCLUDES]
        if source.parent == HERE:
            command += ["-O2", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror"]
        else:  # for its lists and tables
            command += ["-O0", "-isystem", str(ROOT / "tests/cuda_on_cpu"), "-x", "c++"]
        _run(*command, "-c", source, "-o", target)
        return target

    assert GXX is not None
    sources = [*HERE.glob("*.cpp"), *KERNEL_SOURCES, *(ROOT / "csrc/tables").glob("*.cpp")]
    library = folder / "launcher.so"
    objects = _side_by_side(compile_one, sources)
    _run(GXX, "-shared", "-Wl,--no-undefined", *objects, "-o", library, "-ldl")
    return library


def _as_gxx_calls_it(entry: str) -> str:
    """nvcc names every file's anonymous namespace otherwise, g++ all of them alike."""
    while found := re.search(r"(\d+)(?=_GLOBAL__N__)", entry):
        entry = entry[: found.start()] + "12_GLOBAL__N_1" + entry[found.end() + int(found[1]) :]
    return entry


class _Rows(ctypes.Structure):
    _fields_ = (
        ("source", ctypes.c_void_p),
        ("source_type", ctypes.c_int64),
        ("source_bytes", ctypes.c_int64),
        ("importance", ctypes.c_void_p),
        ("experts", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("type", ctypes.c_int64),
        ("target", ctypes.c_void_p),
        ("target_bytes", ctypes.c_int64),
    )


class _Activations(ctypes.Structure):
    _fields_ = (
        ("rows", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("experts", ctypes.c_void_p),
        ("matrices", ctypes.c_int64),
        ("sums", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
    )


class _Outcome(ctypes.Structure):
    _fields_ = (
        ("hazards", ctypes.c_int64),
        ("first_hazard", ctypes.c_char * 200),
        ("not_finite", ctypes.c_int64),
        ("too_large", ctypes.c_int64),
    )


def _address(array: np.ndarray | None) -> int | None:
    assert array is None or array.flags.c_contiguous
    return None if array is None else array.ctypes.data


class PtxError(Exception):
    """Text that is not understood, or a kernel that does what it must not."""


@dataclass(frozen=True)
class Result:
    values: np.ndarray
    is_sound: bool
    hazards: int
    first_hazard: str


class Kernels:
    """Loaded PTX. `backwards` lets the last thread of a block go first."""

    def __init__(self, library: Path, texts: Iterable[Path]) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.launcher_open.restype = ctypes.c_void_p
        self._launcher = ctypes.c_void_p(self._library.launcher_open())
        weakref.finalize(self, self._library.launcher_close, self._launcher)
        assert NM is not None
        lines = (line.split() for line in _run(NM, library).splitlines())
        offsets = {words[2]: int(words[0], 16) for words in lines if len(words) == 3}
        for path in texts:
            self._call("load", os.fsencode(path))
            for entry in re.findall(r"\.entry (\w+)\(", path.read_text(encoding="utf-8")):
                offset = ctypes.c_uint64(offsets[_as_gxx_calls_it(entry)])
                self._call("name", offset, entry.encode())

    def _call(self, name: str, *arguments: object) -> None:
        function = getattr(self._library, f"launcher_{name}")
        function.restype = ctypes.c_char_p
        wrong = function(self._launcher, *arguments)
        if wrong is not None:
            raise PtxError(wrong.decode())

    @staticmethod
    def _result(values: np.ndarray, outcome: _Outcome) -> Result:
        is_sound = outcome.not_finite == 0 and outcome.too_large == 0
        return Result(values, is_sound, outcome.hazards, outcome.first_hazard.decode())

    def quantize(
        self,
        x: np.ndarray,
        type_name: str,
        weight: np.ndarray | None = None,
        *,
        source: str = "F32",
        backwards: bool = False,
    ) -> Result:
        """x: (rows, columns) or (experts, rows, columns); F16 and BF16 as uint16."""
        block = FACTS[type_name]
        out = np.zeros(
            (*x.shape[:-1], x.shape[-1] // block.block_weights * block.block_bytes), np.uint8
        )
        experts = x.shape[0] if x.ndim == 3 else 1
        assert weight is None or weight.size == experts * x.shape[-1]
        rows = _Rows(
            _address(x),
            SOURCE_TYPES.index(source),
            x.nbytes,
            _address(weight),
            *(experts, x.shape[-2], x.shape[-1]),
            gguf.GGMLQuantizationType[type_name],
            _address(out),
            out.nbytes,
        )
        outcome = _Outcome()
        self._call("quantize", ctypes.byref(rows), backwards, ctypes.byref(outcome))
        return self._result(out, outcome)

    def dequantize(self, blocks: np.ndarray, type_name: str, *, backwards: bool = False) -> Result:
        """blocks: uint8, (rows, bytes of a row)."""
        facts = FACTS[type_name]
        shape = (len(blocks), blocks.shape[1] // facts.block_bytes * facts.block_weights)
        out = np.zeros(shape, np.float32)
        outcome = _Outcome()
        self._call(
            "dequantize",
            ctypes.c_int64(gguf.GGMLQuantizationType[type_name]),
            ctypes.c_void_p(_address(blocks)),
            ctypes.c_int64(out.size),
            ctypes.c_void_p(_address(out)),
            backwards,
            ctypes.byref(outcome),
        )
        return self._result(out, outcome)

    def add_squares(
        self,
        sums: np.ndarray,
        counts: np.ndarray,
        x: np.ndarray,
        experts: np.ndarray | None = None,
        *,
        backwards: bool = False,
    ) -> Result:
        """Adds to float32 (matrices, columns) and int64 counts. experts: int32, one per row."""
        given = _Activations(
            _address(x),
            *x.shape,
            _address(experts),
            len(sums),
            _address(sums),
            _address(counts),
        )
        outcome = _Outcome()
        self._call("add_squares", ctypes.byref(given), backwards, ctypes.byref(outcome))
        return self._result(sums, outcome)
