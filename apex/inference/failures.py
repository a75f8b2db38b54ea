"""What goes wrong inside libllama, in words for people."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from apex import _core
from apex.errors import DataError, RunError

__all__ = ["running"]

# What ggml and libllama say where memory could not be had; the last is a failed assertion.
_NO_MEMORY = (
    "insufficient memory",
    "failed to allocate",
    "unable to allocate",
    "std::bad_alloc",
    "mem_buffer != NULL",
)
_ASSERTION = re.compile(r"\S+:\d+: GGML_ASSERT\((.*)\) failed")
# The names of its functions, and what it says on every level anew.
_PREFIX = re.compile(r"^(\w+: |error loading model[\w ]*: )+")


@contextmanager
def running(path: Path) -> Iterator[None]:
    """Turn what goes wrong inside libllama into RunError or DataError about the file."""
    try:
        yield
    except _core.ModelError as error:
        raise _run_error(path, str(error)) from None
    except MemoryError:
        raise _no_memory(path) from None
    except _core.NonFiniteError as error:
        raise DataError(
            f"{path}: {error}.", "the model is damaged, or its activations overflow"
        ) from None


def _run_error(path: Path, text: str) -> RunError:
    """What libllama logged, cut down to its first cause."""
    if any(sign in text for sign in _NO_MEMORY):
        return _no_memory(path)
    if "LLAMA_MAX_LAYERS" in text:
        return RunError(
            f"{path} has no layers, or more than libllama can run.",
            "look at its block_count with apex inspect; the file may be damaged",
        )
    what, _, log = text.partition(": ")
    cause = _PREFIX.sub("", log.partition("\n")[0])
    cause = _ASSERTION.sub(r"its check that \1 failed", cause)
    return RunError(
        f"{path}: {what}{f': {cause}' if cause else ''}.",
        "is it a complete language model that llama.cpp knows?",
    )


def _no_memory(path: Path) -> RunError:
    return RunError(
        f"There is not enough memory to run {path}.",
        "use a smaller --ctx-size, --batch-size or --ubatch-size, or end other programs",
    )
