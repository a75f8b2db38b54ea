"""Bring the pinned llama.cpp sources beside this file.

Upstream code is not kept in git. ``pin.json`` names the PyPI source distribution that carries it,
its sha256, and the parts that apex uses. CMake runs this script when the tree is absent; with the
tree present it does nothing, so a source distribution of apex builds without a network.

    python fetch.py                    download, check, unpack
    python fetch.py --sdist FILE       unpack a source distribution that is already here
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PIN = HERE / "pin.json"
STAMP = HERE / ".unpacked"  # holds the sha256 of the pin that lies here unpacked; written last


class FetchError(Exception):
    """The sources cannot be had; the message says why and what to do."""


def download(pin: dict, folder: Path) -> Path:
    requirement = f"{pin['package']}=={pin['version']}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-binary", pin["package"], "--dest", str(folder), requirement]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.tar.gz"))
    if result.returncode != 0 or not found:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        reason = lines[-1] if lines else f"pip ended with status {result.returncode}"
        raise FetchError(
            f"pip could not download {requirement}: {reason}\n"
            f"hint: check the network and pip's index, or get that source distribution elsewhere "
            f"and run: python {HERE / 'fetch.py'} --sdist FILE"
        )
    return found[0]


def digest_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check(sdist: Path, expected: str) -> None:
    digest = digest_of(sdist)
    if digest != expected:
        raise FetchError(
            f"{sdist.name} has sha256 {digest}, the pin wants {expected}\n"
            "hint: the file is damaged or is not the pinned one; nothing was unpacked"
        )


def is_wanted(path: str, pin: dict) -> bool:
    def below(patterns: list[str]) -> bool:
        return any(fnmatch.fnmatch(path, p) or path.startswith(p + "/") for p in patterns)

    return below(pin["keep"]) and not below(pin["drop"])


def unpack(sdist: Path, pin: dict) -> None:
    prefix = pin["root"] + "/"
    with tempfile.TemporaryDirectory(dir=HERE, prefix=".unpack-") as name:
        staging = Path(name)
        with tarfile.open(sdist) as archive:
            for member in archive:
                path = member.name.removeprefix(prefix)
                if path == member.name or not member.isfile() or not is_wanted(path, pin):
                    continue
                target = staging / path
                target.parent.mkdir(parents=True, exist_ok=True)
                source = archive.extractfile(member)
                if source is None:
                    raise FetchError(f"{sdist.name} holds no data for {member.name}")
                with source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)
        if not (staging / "ggml" / "CMakeLists.txt").is_file():
            raise FetchError(f"{sdist.name} holds no llama.cpp under {pin['root']}")
        for entry in sorted(staging.iterdir()):
            target = HERE / entry.name
            if target.is_dir():
                shutil.rmtree(target)
            entry.replace(target)
    STAMP.write_text(digest_of(PIN) + "\n", encoding="ascii")


def main() -> int:
    parser = argparse.ArgumentParser(description="Bring the pinned llama.cpp sources here.")
    parser.add_argument("--sdist", type=Path, help="use this file instead of downloading")
    arguments = parser.parse_args()
    pin = json.loads(PIN.read_text(encoding="utf-8"))
    if STAMP.is_file() and STAMP.read_text(encoding="ascii").strip() == digest_of(PIN):
        return 0
    try:
        with tempfile.TemporaryDirectory(prefix="apex-fetch-") as folder:
            sdist = arguments.sdist or download(pin, Path(folder))
            check(sdist, pin["sha256"])
            unpack(sdist, pin)
    except (FetchError, OSError, tarfile.TarError) as error:
        print(f"cannot bring llama.cpp's sources: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
