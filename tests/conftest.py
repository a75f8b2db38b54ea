from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import compilers, huggingface
from support.language import write_language_model
from support.llama import write_llama

from apex.demo import write_demo_model

# A shell's background job ignores Ctrl-C, one under nohup a hang-up, and so would the processes
# that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_model() -> Path:
    """A small hybrid MoE that was really trained, where this checkout has it beside it."""
    path = SHARED / "models" / "small-hybrid-moe-f16.gguf"
    if not path.exists():
        pytest.skip("the trained model is not here")
    return path


@pytest.fixture(scope="session")
def dense_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense llama of two layers with random weights, 3.7 MB, F16. Not to be changed."""
    path = tmp_path_factory.mktemp("dense") / "dense.gguf"
    write_llama(path)
    return path


@pytest.fixture(scope="session")
def demo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's hybrid MoE with a multi-token-prediction head, F16. Not to be changed."""
    path = tmp_path_factory.mktemp("demo-model") / "demo.gguf"
    write_demo_model(path)
    return path


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense llama with a real vocabulary that has a beginning-of-sequence token."""
    path = tmp_path_factory.mktemp("language") / "llama.gguf"
    write_language_model(path)
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with 400 tokens only, bytes and a few words: it runs in no time."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    write_language_model(path, size=400)
    return path


@pytest.fixture(scope="session")
def ptx_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """What nvcc makes of a source of csrc/cuda, by its name; all are compiled once."""
    folder = tmp_path_factory.mktemp("ptx")
    with ThreadPoolExecutor(2) as pool:
        compiling = {
            name: pool.submit(compilers.compile_for_device, source, folder / name, "--fmad=false")
            for name, source in compilers.DEVICE_SOURCES.items()
        }
        yield lambda name: compiling[name].result()
        pool.shutdown(cancel_futures=True)


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
    for needed in ("torch", "transformers"):
        pytest.importorskip(needed, reason="apex-quant[hf] is not installed")
    result = subprocess.run(
        [sys.executable, huggingface.__file__, folder, *names],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return folder
