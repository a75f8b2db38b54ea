"""For tests that call compilers."""

from __future__ import annotations

import os


def environment() -> dict[str, str]:
    """The environment for a compiler: the sanitizers' runtime, loaded before everything in
    tests/sanitized, lets nvcc crash."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
