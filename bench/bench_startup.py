"""CPU time until a command has done what needs no weights: importing is most of it.

Each round is a process of its own. What is measured is user and system time, which other processes
disturb less than the clock does; the target is 0.4 s.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from apex.demo import write_demo_model

COMMANDS = {
    "--help": (["--help"], "Exit status: 0 done"),
    "tiers": (["tiers"], "i-quality"),
    "plan of all tiers": (["plan", "MODEL"], "as every tier"),
    "plan of one tier": (["plan", "MODEL", "--tier", "quality"], "output: "),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("startup") / "demo.gguf"
    write_demo_model(path)
    return path


def cpu_time() -> float:
    """Seconds that the processes started from here have used, those that ended."""
    times = os.times()
    return times.children_user + times.children_system


@pytest.mark.parametrize("name", COMMANDS)
def bench_startup(benchmark: BenchmarkFixture, model: Path, name: str) -> None:
    arguments, expected = COMMANDS[name]
    command = [sys.executable, "-m", "apex"]
    command += [str(model) if word == "MODEL" else word for word in arguments]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, check=True)

    assert expected in run().stdout
    before = cpu_time()
    benchmark.pedantic(run, rounds=10)
    benchmark.extra_info["cpu_seconds"] = round((cpu_time() - before) / 10, 3)
