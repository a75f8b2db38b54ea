"""How tests run the command line: in a process of its own, as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

Apex = Callable[..., "subprocess.CompletedProcess[str]"]

COMMAND = (sys.executable, "-m", "apex")

_DROPPED = ("APEX_TRACEBACK", "COLUMNS", "FORCE_COLOR", "NO_COLOR", "PYTHONIOENCODING")


def environment(**variables: str) -> dict[str, str]:
    """This process's, without what would change how the command line looks."""
    return {key: os.environ[key] for key in os.environ if key not in _DROPPED} | variables


def drain(descriptor: int) -> bytes:
    """All that is written to a pseudo-terminal until its other side is closed; closes this one."""
    written = b""
    try:
        while data := os.read(descriptor, 65536):
            written += data
    except OSError:  # how Linux reports that the other side is closed
        pass
    finally:
        os.close(descriptor)
    return written
