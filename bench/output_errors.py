"""Which error of compensated tensors tells how far their outputs are off on other text?

python bench/output_errors.py MODEL OUTPUT.json --imatrix FILE --second-moments FILE --apart FILE
    [--layers 1,7]

FILE of --apart: second moments of text that the others are not of. Some rows of tensors in these
layers are compensated to each type. Of every tensor, two errors are taken on the text that it was
compensated for, one as if columns were independent, one by second moments, and divided by the error
on the text apart. "level" is the geometric mean over types of that, "spread" the standard deviation
of its logarithm from type to type: within a group of tensors, the spread alone matters to a fit.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import apex
from apex.files import MomentsEntry, load_imatrix, load_second_moments
from apex.policy import layer_of
from apex.quantizing import Objectives, round_rows
from apex.sensitivity.errors import CANDIDATES, Candidate, candidates_of
from apex.sensitivity.sample import RowSample
from apex.sources import Tensor
from apex.types import tensor_bytes
from apex.verification import OutputErrors

SAMPLE = 1 << 16


class Errors:
    """Of one tensor, as any type."""

    def __init__(self, candidate: Candidate, tensor: Tensor, rows: np.ndarray, bench: Bench):
        self.tensor, self.rows = tensor, rows
        self.shape = (tensor.experts, tensor.rows // tensor.experts, tensor.columns)
        self.importance = candidate.importance.values(bench.matrix)
        self.objective = lambda expert: bench.objectives.of_entry(
            0, candidate.moments.entry, expert
        )
        own, apart = (file.entry(tensor.name) for file in (bench.moments, bench.apart))
        self.judges = {"importance": diagonal(own), "second moments": own, "apart": apart}

    def as_type(self, name: str) -> dict[str, float]:
        made = np.empty(tensor_bytes(name, self.tensor.shape), np.uint8)
        round_rows(
            *(self.rows, self.tensor.type, self.shape, name, self.importance, "compensated", made),
            *(0, self.objective),
        )
        quantized = Tensor(self.tensor.name, self.tensor.shape, name)
        befores, afters = (data.reshape(self.tensor.experts, -1) for data in (self.rows, made))
        found = {}
        for judge, entry in self.judges.items():
            errors = OutputErrors(entry, 0)
            sums = [
                errors.sums(expert, quantized, afters[expert], self.tensor, befores[expert])
                for expert in range(self.tensor.experts)
            ]
            found[judge] = sum(error for error, *_ in sums) / sum(of for _, of, _ in sums)
        return found


def diagonal(entry: MomentsEntry) -> MomentsEntry:
    """The same without what columns have in common: what an importance matrix knows."""
    sums = np.zeros((entry.matrices, entry.columns * (entry.columns + 1) // 2), np.float32)
    index = np.arange(entry.columns)
    places = index * (index + 3) // 2
    for matrix in range(entry.matrices):
        sums[matrix, places] = entry.sums(matrix)[places]
    return MomentsEntry(entry.path, entry.name, entry.columns, entry.rows, sums)


class Bench:
    """The model and what is known of its inputs."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.source = apex.open_model(given.model)
        self.matrix = load_imatrix(given.imatrix)
        self.moments = load_second_moments(given.second_moments)
        self.apart = load_second_moments(given.apart)
        self.objectives = Objectives({0: self.moments})
        self.layers = set(map(int, given.layers.split(",")))

    def tensors(self) -> list[Errors]:
        sampled = RowSample(self.source, SAMPLE)
        candidates = candidates_of(self.source, self.matrix, "compensated", self.moments)
        found = []
        for tensor in sampled.tensors:
            candidate = candidates.get(tensor.name)
            if (
                candidate is None
                or not candidate.moments
                or layer_of(tensor.name) not in self.layers
            ):
                continue
            rows = np.empty(tensor.bytes, np.uint8)
            sampled.read(tensor, 0, rows.data)
            found.append(Errors(candidate, tensor, rows, self))
        return found


def row_of(errors: Errors) -> dict[str, Any]:
    by_type = {name: errors.as_type(name) for name in CANDIDATES}
    row: dict[str, Any] = {"tensor": errors.tensor.name}
    for judge in ("importance", "second moments"):
        logs = np.log([found[judge] / found["apart"] for found in by_type.values()])
        row[judge] = {"level": float(np.exp(logs.mean())), "spread": float(logs.std())}
    return row


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    for name in ("--imatrix", "--second-moments", "--apart"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--layers", default="1,7")
    given = parser.parse_args()
    bench = Bench(given)
    found = json.loads(given.output.read_text("utf-8")) if given.output.exists() else []
    rows = [row_of(errors) for errors in bench.tensors()]
    counts = bench.moments.entry("blk.1.ffn_down_exps.weight")
    few = None if counts is None else float(np.median(counts.rows))
    for judge in ("importance", "second moments"):
        spread = np.sqrt(np.mean([row[judge]["spread"] ** 2 for row in rows]))
        levels = [row[judge]["level"] for row in rows]
        print(f"{judge}: spread {spread:.3f}, level {min(levels):.2f} to {max(levels):.2f}")
    found.append({"chunks": bench.moments.chunk_count, "rows of an expert": few, "tensors": rows})
    given.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
