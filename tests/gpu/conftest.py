"""Tests of the kernels for GPUs. They run on every GPU that is there, or on the emulated one.

A build with APEX_CUDA=EMULATED compiles csrc/cuda for the processor: the same kernels, thread block
after thread block, and the same way of slabs, against a stand-in of the CUDA runtime
(tests/cuda_on_cpu).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.imatrix import Entry, write_gguf

import apex


@pytest.fixture(scope="session")
def device() -> int:
    """The first GPU."""
    found = apex.gpus()
    if not found:
        pytest.skip("there is no GPU, and the build does not emulate one")
    return int(found[0].index)


@pytest.fixture(scope="session")
def emulated(device: int) -> int:
    """The emulated GPU, which can be told to fail."""
    if apex.gpus()[0].name != "emulated":
        pytest.skip("a real GPU does not fail when asked to")
    return device


def _matrix(model: Path, path: Path) -> Path:
    """Importance for every matrix; one expert of every other tensor was never reached."""
    random = np.random.default_rng(4)
    entries: dict[str, Entry] = {}
    for index, tensor in enumerate(apex.open_model(model).tensors):
        sums = random.lognormal(size=(tensor.experts, tensor.columns)).astype(np.float32)
        counts = random.integers(1, 500, tensor.experts).astype(np.float32)
        if tensor.experts > 1 and index % 2:
            counts[1], sums[1] = 0, 0
        entries[tensor.name] = (sums, counts)
    write_gguf(path, entries)
    return path


@pytest.fixture(scope="session")
def demo_matrix(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An importance matrix of the demo's model."""
    return _matrix(demo_model, tmp_path_factory.mktemp("demo-matrix") / "imatrix.gguf")


@pytest.fixture(scope="session")
def shared_matrix(shared_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An importance matrix of the trained model."""
    return _matrix(shared_model, tmp_path_factory.mktemp("shared-matrix") / "imatrix.gguf")
