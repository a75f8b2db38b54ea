"""Small models in Hugging Face form, what upstream's script makes of them, and their logits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import huggingface


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with all of ``support.huggingface``. Not to be changed."""
    folder = tmp_path_factory.mktemp("huggingface")
    result = subprocess.run(
        [sys.executable, huggingface.__file__, folder],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return folder
