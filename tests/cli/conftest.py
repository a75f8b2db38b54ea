"""The command line as a fixture, and an importance matrix."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from support.commands import COMMAND, Apex, environment
from support.imatrix import write_gguf
from support.llama import llama_tensors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the commands of a test run."""
    return tmp_path


@pytest.fixture
def apex_cli(folder: Path) -> Apex:
    """Run ``python -m apex`` in the test's folder; never with a traceback."""

    def run(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, *map(str, arguments)]
        result = subprocess.run(
            command,
            cwd=folder,
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        assert "Traceback" not in result.stderr + result.stdout
        return result

    return run


@pytest.fixture(scope="session")
def imatrix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An importance matrix for every matrix of the dense model but the embedding."""
    random = np.random.default_rng(5)
    entries = {
        name: (
            random.uniform(1, 9, (1, data.shape[1])).astype(np.float32),
            np.array([3], np.float32),
        )
        for name, data in llama_tensors().items()
        if data.ndim == 2 and name != "token_embd.weight"
    }
    path = tmp_path_factory.mktemp("imatrix") / "imatrix.gguf"
    write_gguf(path, entries)
    return path
