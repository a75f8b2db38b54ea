"""Pages in a real browser, headless Chromium, without a network."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@dataclass(frozen=True)
class Shown:
    """What a browser made of a page.

    Attributes:
        dom: the page when its scripts had run, as text.
        console: what was written to the console, errors included.
    """

    dom: str
    console: tuple[str, ...]


def browse(page: Path, folder: Path, *, width: int = 800, fragment: str = "") -> Shown:
    """Open a page in a window of this width. folder: for the browser's own files.

    fragment: what comes behind # in the address. Skips the test where there is no browser.
    """
    browser = next(filter(None, map(shutil.which, _NAMES)), None)
    if browser is None:
        pytest.skip("there is no Chromium here")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--disable-background-networking", f"--user-data-dir={folder / 'profile'}"]
    command += [f"--window-size={width},900", "--virtual-time-budget=10000", "--dump-dom"]
    command += ["--enable-logging=stderr", page.as_uri() + (f"#{fragment}" if fragment else "")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return Shown(run.stdout, tuple(line for line in run.stderr.splitlines() if "CONSOLE" in line))
