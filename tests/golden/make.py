"""Runs llama.cpp's own tools and keeps what they print: the goldens of tests/oracle/test_tools.py.

For developers, not for CI: it builds the tools from the full source distribution that the pin
names, which takes some minutes.

    python tests/golden/make.py SDIST.tar.gz

Needs cmake, ninja and a compiler. Writes tools.json beside this file.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from support import language  # noqa: E402

import apex  # noqa: E402
from apex import _core  # noqa: E402
from apex.demo import write_demo_model  # noqa: E402
from apex.files import load_imatrix  # noqa: E402

TASKS = 120
# A trained model that may lie beside the checkout.
TRAINED = HERE.parents[2] / "shared/models/small-hybrid-moe-f16.gguf"
MODELS = ("llama", "demo", "trained")
TOOLS = ("llama-perplexity", "llama-imatrix")


def build(sdist: Path, folder: Path) -> Path:
    pin = json.loads((HERE.parents[1] / "vendor/llama.cpp/pin.json").read_text(encoding="utf-8"))
    if hashlib.sha256(sdist.read_bytes()).hexdigest() != pin["sha256"]:
        raise SystemExit(f"{sdist} is not the source distribution that the pin names")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    options = ["BUILD_SHARED_LIBS=OFF", "LLAMA_CURL=OFF", "LLAMA_OPENSSL=OFF", "GGML_OPENMP=OFF"]
    options += ["LLAMA_BUILD_TESTS=OFF", "LLAMA_BUILD_SERVER=OFF", "LLAMA_BUILD_EXAMPLES=OFF"]
    command = ["cmake", "-S", str(folder / pin["root"]), "-B", str(folder / "build"), "-G", "Ninja"]
    command += ["-DCMAKE_BUILD_TYPE=Release", *(f"-D{option}" for option in options)]
    subprocess.run(command, check=True)
    subprocess.run(["ninja", "-C", str(folder / "build"), *TOOLS], check=True)
    return folder / "build/bin"


def make_inputs(folder: Path) -> None:
    language.write_language_model(folder / "llama.gguf")
    write_demo_model(folder / "demo.gguf")
    apex.quantize(folder / "llama.gguf", folder / "llama-q.gguf", file_type="Q3_K_M")
    apex.quantize(
        folder / "demo.gguf", folder / "demo-q.gguf", tier="compact", edge_layers=1, near_layers=1
    )
    if TRAINED.exists():
        (folder / "trained.gguf").symlink_to(TRAINED)
        apex.quantize(
            TRAINED, folder / "trained-q.gguf", tier="balanced", edge_layers=2, near_layers=2
        )
    language.write_text(folder / "text.txt")
    language.write_hellaswag(folder / "hellaswag.txt", TASKS)
    language.write_winogrande(folder / "winogrande.csv", TASKS)
    language.write_multiple_choice(folder / "multiple-choice.bin", TASKS)


def run(tools: Path, folder: Path) -> dict[str, Any]:
    def tool(name: str, *arguments: str) -> str:
        command = [str(tools / name), *arguments, "-t", "2"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    found: dict[str, Any] = {}
    models = [name for name in MODELS if (folder / f"{name}.gguf").exists()]
    for model in models:
        text = tool(
            "llama-perplexity", "-m", f"{model}.gguf", "-f", "text.txt",
            "--kl-divergence-base", f"{model}.kld",
        )  # fmt: skip
        found[f"{model} perplexity with base file"] = re.search(r"PPL = .*", text)[0]
        text = tool("llama-perplexity", "-m", f"{model}.gguf", "-f", "text.txt")
        found[f"{model} perplexity"] = re.search(r"PPL = .*", text)[0]
        text = tool(
            "llama-perplexity", "-m", f"{model}-q.gguf", "--kl-divergence",
            "--kl-divergence-base", f"{model}.kld",
        )  # fmt: skip
        found[f"{model} divergence"] = text[text.index("Mean PPL(Q)") : text.index("Same top p:")]
        found[f"{model} divergence"] += re.search(r"Same top p:.*", text)[0]
        found[f"{model} base file"] = hashlib.sha256(
            (folder / f"{model}.kld").read_bytes()
        ).hexdigest()
    for model in models:
        text = tool("llama-perplexity", "-m", f"{model}.gguf", "-f", "hellaswag.txt", "--hellaswag")
        found[f"{model} hellaswag"] = re.findall(r"^\d+\t.*", text, re.M)[-1]
        text = tool(
            "llama-perplexity", "-m", f"{model}.gguf", "-f", "winogrande.csv", "--winogrande"
        )
        found[f"{model} winogrande"] = re.search(r"Final Winogrande.*", text)[0]
        text = tool(
            "llama-perplexity", "-m", f"{model}.gguf", "-bf", "multiple-choice.bin",
            "--multiple-choice", "--multiple-choice-tasks", "100",
        )  # fmt: skip
        found[f"{model} multiple choice"] = re.search(r"Final result: .*", text)[0]
        tool(
            "llama-imatrix", "-m", f"{model}.gguf", "-f", "text.txt", "-o", f"{model}.imatrix.gguf",
            "--no-ppl", "--process-output",
        )  # fmt: skip
        matrix = load_imatrix(folder / f"{model}.imatrix.gguf")
        found[f"{model} imatrix"] = {
            name: {
                "counts": [int(count) for count in entry.counts],
                "sums": [float(value) for value in entry.sums.astype("f8").sum(axis=1)],
                "sha256": hashlib.sha256(entry.sums.tobytes()).hexdigest(),
            }
            for name, entry in sorted(matrix.entries.items())
        }
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if Path(sys.argv[1]).is_dir():
            tools = Path(sys.argv[1])
        else:
            tools = build(Path(sys.argv[1]), folder)
        make_inputs(folder)
        golden = {
            "settings": "context 512, batch 2048, micro-batch 512, F16 cache, 2 threads",
            "llama.cpp": _core.llama_version,
            "features": _core.inference_features(),
            "models": {
                path.name: hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted(folder.glob("*.gguf"))
                if "imatrix" not in path.name
            },
            "printed": run(tools, folder),
        }
    (HERE / "tools.json").write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
