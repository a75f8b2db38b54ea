"""The script that brings llama.cpp's sources: what it unpacks, and its one clear message."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

VENDOR = Path(__file__).parents[2] / "vendor" / "llama.cpp"
FILES = {
    "ggml/CMakeLists.txt": b"project(ggml)\n",
    "ggml/src/ggml-cuda/big.cu": b"kernel\n",
    "src/llama.cpp": b"int main;\n",
    "examples/never.cpp": b"used\n",
    "LICENSE": b"MIT\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The script beside a pin that names a package nobody has, and that package's sdist."""
    (tmp_path / "bin").mkdir()
    shutil.copy(VENDOR / "fetch.py", tmp_path)
    sdist = tmp_path / "none-1.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        for name, data in FILES.items():
            info = tarfile.TarInfo(f"none-1/inner/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    pin = {
        "package": "apex-quant-no-such-package",
        "version": "1",
        "sha256": hashlib.sha256(sdist.read_bytes()).hexdigest(),
        "root": "none-1/inner",
        "keep": ["ggml", "src", "LICENSE"],
        "drop": ["ggml/src/ggml-cuda"],
    }
    (tmp_path / "pin.json").write_text(json.dumps(pin))
    return tmp_path


def fetch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, folder / "fetch.py", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "", "PIP_NO_INDEX": "1"},
    )


def test_the_pin_has_what_the_script_reads() -> None:
    pin = json.loads((VENDOR / "pin.json").read_text())
    assert set(pin) >= {"package", "version", "sha256", "root", "keep", "drop"}
    assert len(pin["sha256"]) == 64


def test_only_wanted_folders_are_unpacked_and_once(folder: Path) -> None:
    result = fetch(folder, "--sdist", str(folder / "none-1.tar.gz"))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    for name, data in FILES.items():
        wanted = "cuda" not in name and "examples" not in name
        assert (folder / name).exists() == wanted, name
        assert not wanted or (folder / name).read_bytes() == data
    (folder / "src" / "mine.txt").write_text("kept")
    assert fetch(folder).returncode == 0  # present: nothing is fetched, nothing touched
    assert (folder / "src" / "mine.txt").exists()


def test_a_new_pin_replaces_the_tree(folder: Path) -> None:
    assert fetch(folder, "--sdist", str(folder / "none-1.tar.gz")).returncode == 0
    (folder / ".unpacked").write_text("another pin\n")
    (folder / "src" / "stale.cpp").write_text("old")
    assert fetch(folder, "--sdist", str(folder / "none-1.tar.gz")).returncode == 0
    assert not (folder / "src" / "stale.cpp").exists()


def test_a_wrong_hash_unpacks_nothing(folder: Path) -> None:
    sdist = folder / "none-1.tar.gz"
    sdist.write_bytes(sdist.read_bytes() + b"\0")
    before = sorted(folder.iterdir())
    result = fetch(folder, "--sdist", str(sdist))
    assert result.returncode == 1
    assert "has sha256" in result.stderr
    assert len(result.stderr.splitlines()) == 2
    assert sorted(folder.iterdir()) == before


def test_a_failed_download_is_one_message(folder: Path) -> None:
    result = fetch(folder)
    assert result.returncode == 1
    first, hint = result.stderr.splitlines()
    assert "apex-quant-no-such-package==1" in first
    assert hint.startswith("hint: ")
    assert not (folder / "ggml").exists()
