"""A build for any CPU beside a source build: how fast models run, whether the results are equal.

python bench/portable.py MODEL TEXT OUTPUT.json --source PYTHON --portable PYTHON [--rounds N]

PYTHON is the interpreter of an environment that has apex in that build: `pip install .` and
`APEX_NATIVE=OFF pip install .`. They take turns, so that whatever else the machine does meets both.
For each variant that the CPU has: pp512 and tg128 in tokens per second (the best of the rounds) and
their ratio to the source build's. The quantized bytes must be equal, and so must the importance
matrices of two runs of one variant.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Any

ABOUT = """
import json
from apex import _core
print(json.dumps([_core.available_variants(), _core.inference_features(), _core.__version__,
                  _core.ggml_version, _core.available_threads(), _core.__file__]))
"""


def run(python: Path, variant: str, *arguments: str) -> str:
    result = subprocess.run(
        [str(python), *arguments],
        env={**os.environ, "APEX_CPU_VARIANT": variant},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise SystemExit(f"{python} {' '.join(arguments)}: {result.stderr}")
    return result.stdout


def speed(python: Path, variant: str, model: Path, folder: Path) -> dict[str, float]:
    """Name of the measurement to tokens per second."""
    out = folder / "speed.json"
    run(
        *(python, variant, "-m", "apex", "eval", str(model), "--speed", "--repetitions", "1"),
        *("-o", str(out), "--overwrite", "--quiet"),
    )
    (measured,) = json.loads(out.read_text(encoding="utf-8"))["models"]
    return {name: measured["speed"][name]["value"] for name in ("pp512", "tg128")}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def products(python: Path, variant: str, model: Path, text: Path, folder: Path) -> dict[str, str]:
    """Digests of an importance matrix, and of a file that is quantized with a given one."""
    matrix, shared = folder / "matrix.gguf", folder / "shared.gguf"
    run(
        *(python, variant, "-m", "apex", "imatrix", str(model), "-f", str(text), "--chunks", "4"),
        *("-o", str(matrix), "--overwrite", "--quiet"),
    )
    if not shared.exists():
        shared.write_bytes(matrix.read_bytes())
    out = folder / "out.gguf"
    run(
        *(python, variant, "-m", "apex", "quantize", str(model), str(out), "--tier", "i-quality"),
        *("--imatrix", str(shared), "--overwrite", "--quiet"),
    )
    return {"importance matrix": digest(matrix), "quantized file": digest(out)}


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    source, portable, model = arguments.source, arguments.portable, arguments.model
    about = {
        name: json.loads(run(python, "", "-c", ABOUT))
        for name, python in (("source", source), ("portable", portable))
    }
    variants = about["portable"][0]
    who = {"source": (source, ""), **{variant: (portable, variant) for variant in variants}}
    best: dict[str, dict[str, float]] = {name: {} for name in who}
    for _ in range(arguments.rounds):
        for name, (python, variant) in who.items():
            if name == variants[0] and best[name]:
                continue  # the baseline is slow; once is enough
            for test, rate in speed(python, variant, model, folder).items():
                best[name][test] = max(rate, best[name].get(test, 0.0))
    made = {
        name: products(python, variant, model, arguments.text, folder)
        for name, (python, variant) in who.items()
    }
    again = products(portable, variants[-1], model, arguments.text, folder)
    assert again == made[variants[-1]], "two runs of one variant differ"
    assert len({digests["quantized file"] for digests in made.values()}) == 1
    return {
        "processor": processor(),
        "threads": about["source"][4],
        "apex": about["source"][2],
        "ggml": about["source"][3],
        "model": model.name,
        "module bytes": {name: Path(told[5]).stat().st_size for name, told in about.items()},
        "tokens per second": best,
        "ratio to source": {
            variant: {test: rate / best["source"][test] for test, rate in best[variant].items()}
            for variant in variants
        },
        "features": {name: told[1] for name, told in about.items()},
        "sha256": made,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--portable", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments, Path(folder))
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, rates in result["tokens per second"].items():
        print(name, *(f"{test} {rate:.1f}" for test, rate in rates.items()))


if __name__ == "__main__":
    main()
