"""Which room may know which: the map in CONTRIBUTING.md, held against the sources."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Python rooms and what each may import of apex.
PYTHON = {
    "errors": set(),
    "cpu": {"errors", "_core"},
    "sizes": {"errors"},
    "types": {"_core"},
    "policy": {"errors"},
    "sources": {"errors", "types", "_core"},
    "files": {"errors", "_core"},
    "conversion": {"errors", "sources", "files"},
    "planning": {"errors", "policy", "sources", "files", "types", "_core"},
    "gpu": {"errors", "_core"},
    "quantizing": {
        *("cpu", "errors", "sources", "files", "gpu", "planning", "types", "verification", "_core"),
    },
    "verification": {"errors", "policy", "sources", "files", "planning", "types", "_core"},
    "inference": {"cpu", "errors", "sources", "_core"},
    "calibration": {"cpu", "errors", "sources", "files", "inference", "_core"},
    "evaluation": {
        *("cpu", "errors", "sources", "files", "inference", "policy", "verification", "_core"),
    },
    "allocation": {"errors"},
    "sensitivity": {
        "allocation",
        *("calibration", "cpu", "errors", "files", "inference", "planning", "policy"),
        *("quantizing", "sources", "types", "_core"),
    },
    "fitting": {
        *("allocation", "calibration", "errors", "files", "inference", "planning", "policy"),
        "sensitivity",
        *("sources", "types", "_core"),
    },
    "reporting": {"errors", "files"},
    "publishing": {
        *("calibration", "conversion", "errors", "evaluation", "files", "inference", "planning"),
        *("policy", "quantizing", "reporting", "sizes", "sources", "verification", "_core"),
    },
    "demo": {"errors", "_core"},
}

# C++ rooms, what each may include of csrc, and which libraries' headers.
CPP = {
    "guard": ({"guard"}, {"ggml.h"}),
    "gguf": ({"gguf", "guard"}, {"ggml.h", "gguf.h"}),
    "lane": ({"lane"}, set()),
    "tables": ({"tables", "lane"}, {"ggml-common.h"}),
    "searches": ({"searches", "tables", "lane"}, set()),
    "formats": ({"formats", "searches", "tables", "lane"}, set()),
    "compensation": (
        {"compensation", "formats", "isa", "lane", "tables"},
        set(),
    ),
    "isa": ({"isa", "compensation", "formats", "lane"}, {"ggml.h"}),
    "dispatch": ({"dispatch", "isa"}, set()),
    "engine": ({"engine", "guard", "dispatch"}, {"ggml.h"}),
    "rounding": ({"rounding", "engine", "guard", "dispatch"}, {"ggml.h"}),
    "cuda": ({"cuda", "formats", "searches", "tables", "lane", "engine"}, {"ggml.h"}),
    "no_cuda": ({"cuda"}, set()),
    "statistics": ({"statistics", "cuda", "dispatch", "engine"}, set()),
    "evaluate": ({"evaluate", "engine"}, set()),
    "llama": (
        {"llama", "cuda", "guard", "statistics"},
        {
            *("ggml.h", "ggml-backend.h", "ggml-cpu.h", "gguf.h"),
            *("llama.h", "llama-cpp.h", "llama-ext.h", "llama-model.h", "llama-quant.cpp"),
        },
    ),
    "variants": ({"variants"}, {"ggml-cpu.h"}),
    "reference": ({"reference", "bind", "engine", "guard", "llama"}, {"llama.h", "pybind11"}),
    "bind": (
        {
            *("bind", "cuda", "dispatch", "engine", "evaluate", "gguf", "guard"),
            *("llama", "rounding", "statistics", "variants"),
        },
        {"ggml.h", "pybind11"},
    ),
}


def python_files(room: str) -> list[Path]:
    single = ROOT / "apex" / f"{room}.py"
    return [single] if single.exists() else sorted((ROOT / "apex" / room).rglob("*.py"))


def imported(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "apex":
            parts = node.module.split(".")
            rooms |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[1] for alias in node.names if "apex." in alias.name}
    return rooms


@pytest.mark.parametrize("room", PYTHON)
def test_python_rooms(room: str) -> None:
    files = python_files(room)
    assert files
    for path in files:
        assert imported(path) <= PYTHON[room] | {room}, path


@pytest.mark.parametrize("room", CPP)
def test_cpp_rooms(room: str) -> None:
    rooms, libraries = CPP[room]
    files = [
        path for path in (ROOT / "csrc" / room).iterdir() if path.suffix in (".h", ".cpp", ".cu")
    ]
    assert files
    for path in files:
        text = path.read_text(encoding="utf-8")
        ours = re.findall(r'#include "([^"]+)"', text)
        assert {name.split("/")[0] if "/" in name else room for name in ours} <= rooms, path
        theirs = re.findall(r"#include <((?:ggml|gguf|llama|pybind11)[^>]*)>", text)
        assert {name.split("/")[0] for name in theirs} <= libraries, path


def test_every_room_is_on_the_map() -> None:
    assert {path.name for path in (ROOT / "csrc").iterdir() if path.is_dir()} == set(CPP)
    rooms = {path.stem for path in (ROOT / "apex").glob("[a-z]*") if path.suffix in (".py", "")}
    assert rooms - {"cli", "py.typed"} == set(PYTHON)


def test_only_the_command_line_prints() -> None:
    for room in PYTHON:
        for path in python_files(room):
            names = {
                node.func.id
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            }
            assert not names & {"print", "exit", "quit"}, path


# The size of things, in lines.
FILE_LIMIT, FUNCTION_LIMIT = 350, 60


def python_sources() -> dict[str, str]:
    """Path below apex to text, for every file of Python."""
    return {
        str(path.relative_to(ROOT / "apex")): path.read_text(encoding="utf-8")
        for path in sorted((ROOT / "apex").rglob("*.py"))
    }


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef, is_command: bool) -> int:
    """A command declares its options in its parameters, so there only the body counts."""
    assert function.end_lineno is not None
    start = function.body[0].lineno if is_command else function.lineno
    return function.end_lineno - start + 1


def long_functions(name: str, text: str) -> set[str]:
    return {
        f"{name}: {node.name}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and lines_of(node, is_command=name.startswith("cli/")) > FUNCTION_LIMIT
    }


def test_no_file_is_large() -> None:
    large = {name for name, text in python_sources().items() if text.count("\n") >= FILE_LIMIT}
    assert not large


def test_no_function_is_long() -> None:
    found = [long_functions(name, text) for name, text in python_sources().items()]
    assert set().union(*found) == set()


def test_a_long_function_would_be_seen() -> None:
    body = "    pass\n" * FUNCTION_LIMIT
    assert long_functions("files/new.py", f"def long():\n{body}") == {"files/new.py: long"}
    assert long_functions("cli/new.py", f"def command(\n):\n{body}") == set()
    assert long_functions("cli/new.py", f"def command():\n{body}    pass\n") != set()
