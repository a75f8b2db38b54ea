"""Small models in Hugging Face form, what upstream's script makes of them, and their logits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import huggingface


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the dense model alone. Not to be changed."""
    return _made(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with all other models, which take long to make. Not to be changed."""
    names = [make.__name__ for make in huggingface.CONVERSIONS]
    return _made(tmp_path_factory.mktemp("models"), *names[1:])


def _made(folder: Path, *names: str) -> Path:
    """The folder, with these models of ``support.huggingface``."""
    result = subprocess.run(
        [sys.executable, huggingface.__file__, folder, *names],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return folder
