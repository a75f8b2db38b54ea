"""Which types come nearer to the model when they are rounded otherwise? Measures, prints a table.

python bench/rounding.py MODEL DATA OUTPUT.json [--types Q2_K,…] [--linears] [--chunks N]

MODEL: an F16 model. DATA: a folder with calibration-in-domain.txt, by which the importance matrix
is made, and eval-*.txt, by which it is judged. The routed experts of the trunk, or with --linears
all that llama.cpp quantizes there, become one type and all else stays F16; every type is tried,
whatever a plan would do with it. The ratio of KL divergences is that of means over the same chunks.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import apex
from apex import _core
from apex.calibration import read_texts
from apex.files import load_imatrix
from apex.inference import Divergences, ResidentModel, RunOptions, Tokens, chunks_of, read_text
from apex.quantizing import round_rows
from apex.sensitivity.errors import candidates_of
from apex.types import tensor_bytes

TYPES = (
    *("Q4_K", "IQ4_XS", "Q3_K", "IQ3_S", "IQ3_XXS", "Q2_K", "IQ2_S", "IQ2_XS", "IQ2_XXS"),
    *("IQ1_M", "Q5_K", "Q6_K", "Q4_0", "Q4_1", "IQ4_NL", "IQ1_S"),
)


class Bench:
    """The model, its importance matrix, and the texts that judge."""

    def __init__(self, model: Path, data: Path, output: Path, chunks: int) -> None:
        self.source = apex.open_model(model)
        path = output.with_suffix(".imatrix.gguf")
        if not path.exists():
            apex.calibrate(model, path, read_texts([data / "calibration-in-domain.txt"]))
        self.matrix = load_imatrix(path)
        self.resident = ResidentModel(self.source, RunOptions())
        self.names, tokens = self._judging(data, chunks)
        self.divergences = Divergences(self.resident, tokens)
        self.candidates = {
            name: candidate
            for name, candidate in candidates_of(self.source, self.matrix).items()
            if self.resident.holds(name) and candidate.importance is not None
        }

    def _judging(self, data: Path, chunks: int) -> tuple[list[str], Tokens]:
        names, parts = [], []
        for path in sorted(data.glob("eval-*.txt")):
            every = chunks_of(self.resident.model.tokenize(read_text(path)), 512)
            count = min(chunks, len(every))
            parts.append(every[(2 * np.arange(count) + 1) * len(every) // (2 * count)])
            names += [path.stem] * count
        return names, np.concatenate(parts)

    def measure(self, type_name: str, rounding: str, *, linears: bool) -> np.ndarray:
        """KL divergence by chunk."""
        for name in self.candidates:
            if linears or "_exps" in name:
                self.resident.replace(name, type_name, self._rounded(name, type_name, rounding))
        return self.divergences.measure().mean(axis=1)

    def _rounded(self, name: str, type_name: str, rounding: str) -> np.ndarray:
        tensor, reference = self.candidates[name].tensor, self.candidates[name].importance
        assert reference is not None
        rows = np.empty(tensor.bytes, np.uint8)
        self.source.read(tensor, 0, rows.data)
        made = np.empty(tensor_bytes(type_name, tensor.shape), np.uint8)
        shape = (tensor.experts, tensor.rows // tensor.experts, tensor.columns)
        importance = reference.values(self.matrix)
        round_rows(rows, tensor.type, shape, type_name, importance, rounding, made, 0)
        return made


def row_of(bench: Bench, type_name: str, *, linears: bool) -> dict[str, Any]:
    reference = bench.measure(type_name, "reference", linears=linears)
    found = bench.measure(type_name, "unshrunk", linears=linears)
    ratio = found.mean() / reference.mean()
    apart = (found - ratio * reference).std(ddof=1) / np.sqrt(len(found))
    return {
        "type": type_name,
        "tensors": "linears" if linears else "experts",
        "reference": float(reference.mean()),
        "unshrunk": float(found.mean()),
        "ratio": float(ratio),
        "error": float(apart / reference.mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--linears", action="store_true")
    parser.add_argument("--chunks", type=int, default=8, help="of each text that judges")
    given = parser.parse_args()
    bench = Bench(given.model, given.data, given.output, given.chunks)
    rows = json.loads(given.output.read_text("utf-8"))["rows"] if given.output.exists() else []
    for type_name in given.types.split(","):
        rows.append(row_of(bench, type_name, linears=given.linears))
        print(json.dumps(rows[-1]), flush=True)
        found = {
            "model": given.model.name,
            "apex": apex.__version__,
            "isa": _core.inference_features(),
            "chunks": bench.names,
            "rows": rows,
        }
        given.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
