"""Which types come nearer to the model when they are rounded otherwise? Measures, prints a table.

python bench/rounding.py MODEL DATA OUTPUT.json [--types Q2_K,…] [--linears] [--chunks N]
    [--imatrix FILE] [--second-moments FILE] [--judge eval-*.txt] [--tiers i-mini,…]

MODEL: an F16 model. DATA: a folder with calibration-in-domain.txt, by which the importance matrix
is made where none is given, and the texts that judge. The routed experts of the trunk, or with
--linears all that llama.cpp quantizes there, become one type and all else stays F16; every type is
tried unshrunk, whatever a plan would do with it, and compensated where there are second moments.
With --tiers, the types are those of tiers, and all tensors of the trunk are as a file would have
them. The ratio of KL divergences is that of means over the same chunks, its error that of chunks;
"ppl" is the perplexity over them, that beside the rows the unchanged model's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import apex
from apex import _core
from apex.calibration import read_texts
from apex.files import load_imatrix, load_second_moments
from apex.inference import (
    Divergences,
    ResidentModel,
    RunOptions,
    Tokens,
    batches,
    chunks_of,
    read_text,
)
from apex.planning.rounding import rounding_for
from apex.quantizing import Objectives, round_rows
from apex.sensitivity.errors import candidates_of
from apex.types import tensor_bytes

TYPES = (
    *("Q4_K", "IQ4_XS", "Q3_K", "IQ3_S", "IQ3_XXS", "Q2_K", "IQ2_S", "IQ2_XS", "IQ2_XXS"),
    *("IQ1_M", "Q5_K", "Q6_K", "Q4_0", "Q4_1", "IQ4_NL", "IQ1_S"),
)


class Bench:
    """The model, its importance matrix, and the texts that judge."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.source = apex.open_model(given.model)
        path = given.imatrix or given.output.with_suffix(".imatrix.gguf")
        if not path.exists():
            texts = read_texts([given.data / "calibration-in-domain.txt"])
            apex.calibrate(given.model, path, texts)
        self.matrix = load_imatrix(path)
        moments = given.second_moments
        self.moments = None if moments is None else load_second_moments(moments)
        self.objectives = Objectives({} if self.moments is None else {0: self.moments})
        self.resident = ResidentModel(self.source, RunOptions())
        names, tokens = self._judging(given.data, given.judge, given.chunks)
        self.names = np.array(names)
        self.divergences = Divergences(self.resident, tokens)
        self.ppl = self.perplexity()
        self.candidates = {
            name: candidate
            for name, candidate in candidates_of(self.source, self.matrix).items()
            if self.resident.holds(name)
        }

    def _judging(self, data: Path, judge: str, chunks: int) -> tuple[list[str], Tokens]:
        names, parts = [], []
        for path in sorted(data.glob(judge)):
            every = chunks_of(self.resident.model.tokenize(read_text(path)), 512)
            count = min(chunks, len(every))
            parts.append(every[(2 * np.arange(count) + 1) * len(every) // (2 * count)])
            names += [path.stem] * count
        return names, np.concatenate(parts)

    def types_of(self, what: str, *, linears: bool) -> dict[str, str]:
        """The types of tensors by name: one for all, or those of a tier."""
        if what in TYPES:
            return {name: what for name in self.candidates if linears or "_exps" in name}
        plan = apex.plan(self.source, tier=what, imatrix=self.matrix)
        return {
            tensor.name: tensor.type
            for tensor in plan.tensors
            if not tensor.is_copied and self.resident.holds(tensor.name)
        }

    def measure(self, types: Mapping[str, str], rounding: str) -> np.ndarray:
        """KL divergence in nats (chunks, positions)."""
        only = next(iter(types.values())) if len(set(types.values())) == 1 else None
        self.resident.restore()
        for name, type_name in types.items():
            how = rounding if type_name == only else self._planned(name, type_name, rounding)
            self.resident.replace(name, type_name, self._rounded(name, type_name, how))
        return self.divergences.measure()

    def perplexity(self) -> float:
        """Of the model as it is now, at the positions of the divergences that have a next token."""
        options, chunks = self.resident.options, self.divergences.chunks
        found = []
        for batch in batches(
            chunks, options, self.resident.model, first_output=options.context_length // 2
        ):
            if batch.begins:
                self.resident.context.clear()
            self.resident.context.decode(
                batch.tokens, batch.positions, batch.sequences, batch.outputs
            )
            which, where = batch.rows
            known = np.flatnonzero(where + 1 < options.context_length)
            after = chunks[batch.chunks.start + which[known], where[known] + 1]
            found.append(self.resident.context.score(known, after, options.threads)[0])
        return float(np.exp(np.concatenate(found).mean()))

    def _planned(self, name: str, type_name: str, rounding: str) -> str:
        return rounding_for(
            rounding,
            type_name,
            has_importance=self.candidates[name].importance is not None,
            has_moments=self.moments is not None and self.moments.entry(name) is not None,
        )

    def _rounded(self, name: str, type_name: str, rounding: str) -> np.ndarray:
        tensor, reference = self.candidates[name].tensor, self.candidates[name].importance
        rows = np.empty(tensor.bytes, np.uint8)
        self.source.read(tensor, 0, rows.data)
        made = np.empty(tensor_bytes(type_name, tensor.shape), np.uint8)
        shape = (tensor.experts, tensor.rows // tensor.experts, tensor.columns)
        importance = None if reference is None else reference.values(self.matrix)
        objective = self._objectives(name) if rounding == "compensated" else None
        round_rows(rows, tensor.type, shape, type_name, importance, rounding, made, 0, objective)
        return made

    def _objectives(self, name: str) -> Callable[[int], _core.Objective] | None:
        if self.moments is None or self.moments.entry(name) is None:
            return None
        return lambda expert: self.objectives.of_entry(0, name, expert)


def row_of(bench: Bench, what: str, *, linears: bool) -> dict[str, Any]:
    roundings = ["reference", "unshrunk", *(["compensated"] if bench.moments else [])]
    row: dict[str, Any] = {"type": what, "tensors": "linears" if linears else "experts"}
    types = bench.types_of(what, linears=linears)
    first = None
    for rounding in roundings:
        values = bench.measure(types, rounding)
        found = values.mean(axis=1)
        first = found if first is None else first
        ratio = found.mean() / first.mean()
        apart = (found - ratio * first).std(ddof=1) / np.sqrt(len(found))
        row[rounding] = {
            "ppl": bench.perplexity(),
            "kl": float(found.mean()),
            "high": float(np.quantile(values, 0.999)),
            "most": float(values.max()),
            "ratio": float(ratio),
            "error": float(apart / first.mean()),
            "texts": {
                name: float(found[bench.names == name].mean() / first[bench.names == name].mean())
                for name in dict.fromkeys(bench.names.tolist())
            },
        }
    return row


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--linears", action="store_true")
    parser.add_argument("--chunks", type=int, default=8, help="of each text that judges")
    parser.add_argument("--imatrix", type=Path)
    parser.add_argument("--second-moments", type=Path)
    parser.add_argument("--tiers")
    parser.add_argument("--judge", default="eval-*.txt", help="texts in DATA that judge")
    given = parser.parse_args()
    bench = Bench(given)
    rows = json.loads(given.output.read_text("utf-8"))["rows"] if given.output.exists() else []
    for what in (given.tiers or given.types).split(","):
        rows.append(row_of(bench, what, linears=given.linears))
        print(json.dumps(rows[-1]), flush=True)
        found = {
            "model": given.model.name,
            "apex": apex.__version__,
            "isa": _core.inference_features(),
            "second_moments": bench.moments and bench.moments.path,
            "chunks": bench.names.tolist(),
            "ppl": bench.ppl,
            "rows": rows,
        }
        given.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
