"""Writes apex/_core.pyi from the built extension; run it after a change of the bindings.

python csrc/bind/make_stubs.py
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

TARGET = Path(__file__).parents[2] / "apex" / "_core.pyi"

REPLACEMENTS = (
    # What pybind11 accepts for an int is an int to people.
    (r"typing\.SupportsInt \| typing\.SupportsIndex", "int"),
    (r"typing\.SupportsFloat \| typing\.SupportsIndex", "float"),
    # Before Python 3.12 numpy's arrays are not a Buffer to a type checker.
    (r"typing_extensions\.Buffer", "_Buffer"),
    (
        r"__all__: list\[str\] = .*\n",
        "_Buffer: typing.TypeAlias = typing_extensions.Buffer | numpy.typing.NDArray[typing.Any]\n",
    ),
    # A file name that is not UTF-8 is given as bytes, which pybind11 takes for a std::string.
    (r"\bpath: str\b", "path: str | bytes"),
    (r"__version__: str = .*", "__version__: str"),
    (r"(ggml|llama)_version: str = .*", r"\1_version: str"),
)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pybind11_stubgen", "apex._core", "-o", folder]
        subprocess.run([*command, "--numpy-array-use-type-var"], check=True)
        text = (Path(folder) / "apex" / "_core.pyi").read_text(encoding="utf-8")
    for pattern, replacement in REPLACEMENTS:
        text = re.sub(pattern, replacement, text)
    TARGET.write_text(text, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--quiet", str(TARGET)], check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
