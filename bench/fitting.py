"""Are fitted files better than tiers and stock mixes of their size? Measures and prints tables.

python bench/fitting.py MODEL DATA OUTPUT.json [--parts sizes,stock,predictions,cost] [--chunks N]
    [--imatrix FILE] [--second-moments FILE --parts rounding]

MODEL: an F16 model of 16 trunk layers (edge and near zones of 2 layers are used). DATA: a folder
with calibration-in-domain.txt, by which everything is made, and eval-*.txt, by which it is judged.
Files are not written: the model in memory becomes what each file would be, which computes the same
(tests/inference/test_resident.py). What was measured before is kept beside OUTPUT. Part "rounding"
tells what compensated rounding and a fit give at the sizes of the tiers, each alone and both.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import apex
from apex.allocation import Choice, Frontier
from apex.calibration import read_texts
from apex.files import ImportanceMatrix, load_imatrix, load_second_moments
from apex.fitting import Fit, Wish, fit
from apex.fitting.judging import Judge
from apex.fitting.refining import refine
from apex.inference import Divergences, ResidentModel, RunOptions, Tokens, chunks_of, read_text
from apex.planning import REFERENCE, Plan
from apex.sensitivity import Sensitivity, load_sensitivity
from apex.sensitivity.errors import candidates_of
from apex.sensitivity.measuring import measure
from apex.sensitivity.options import MeasureOptions
from apex.sensitivity.probing import Prober

COMPENSATED = "compensated"
TIERS = ("i-quality", "i-compact", "mini", "nano")
STOCK = ("Q4_K_M", "IQ4_XS", "Q3_K_M", "IQ3_XXS", "IQ2_M")
WIDTHS: dict[str, Any] = {"edge_layers": 2, "near_layers": 2}
# What is measured: a name, and how finely and over how much.
MAIN = ("kind", 4, "in-domain")
COSTS = (("kind", 1, "in-domain"), MAIN, ("kind", 4, "built-in"), ("part", 4, "in-domain"))
RANDOM = 20
# At these sizes the fit is refined too.
REFINED = ("i-compact", "nano")

Losses = Mapping[str, Mapping[str, float]]


class Bench:
    """The model, what was measured of it, and the texts that judge."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.source = apex.open_model(given.model)
        self.folder = given.output.with_suffix("")
        self.folder.mkdir(exist_ok=True)
        self.texts = read_texts([given.data / "calibration-in-domain.txt"])
        self.matrix = self._matrix(given)
        self.moments_path = given.second_moments
        self.resident = ResidentModel(self.source, RunOptions())
        self.names, tokens = self._judging(given.data, given.chunks)
        self.divergences = Divergences(self.resident, tokens)
        roundings = [REFERENCE] if given.second_moments is None else [REFERENCE, COMPENSATED]
        self.probers = {rounding: self._prober(rounding) for rounding in roundings}
        self.rounding = REFERENCE  # that the resident model has now
        candidates = candidates_of(self.source, self.matrix)
        self.chosen = {name for name in candidates if self.resident.holds(name)}

    def _matrix(self, given: argparse.Namespace) -> ImportanceMatrix:
        path = given.imatrix or self.folder / "imatrix.gguf"
        if not path.exists():
            apex.calibrate(given.model, path, self.texts)
        return load_imatrix(path)

    def _prober(self, rounding: str) -> Prober:
        path = self.moments_path if rounding == COMPENSATED else None
        moments = None if path is None else load_second_moments(path)
        candidates = candidates_of(self.source, self.matrix, rounding, moments)
        return Prober(
            *(self.source, self.matrix, candidates, self.resident, self.divergences),
            *(rounding, moments),
        )

    def _judging(self, data: Path, chunks: int) -> tuple[list[str], Tokens]:
        names, parts = [], []
        for path in sorted(data.glob("eval-*.txt")):
            every = chunks_of(self.resident.model.tokenize(read_text(path)), 512)
            count = min(chunks, len(every))
            parts.append(every[(2 * np.arange(count) + 1) * len(every) // (2 * count)])
            names += [path.stem] * count
        return names, np.concatenate(parts)

    def sensitivity(
        self, detail: str, chunks: int, text: str, rounding: str = REFERENCE
    ) -> tuple[Sensitivity, dict[str, float]]:
        """Measured once, then read; and what it cost."""
        name = f"{detail}-{chunks}-{text}" + ("" if rounding == REFERENCE else f"-{rounding}")
        path, cost = self.folder / f"{name}.json", self.folder / f"{name}-cost.json"
        if not path.exists():
            given = MeasureOptions(detail=detail, chunks=chunks, **self._rounded(rounding))
            texts = self.texts if text == "in-domain" else ()
            made = measure(self.source, path, self.matrix, texts, options=given)
            numbers = {"tokens": made.tokens, "probes": made.probes, "seconds": made.seconds}
            cost.write_text(json.dumps(numbers), encoding="utf-8")
        return load_sensitivity(path), json.loads(cost.read_text(encoding="utf-8"))

    def _rounded(self, rounding: str) -> dict[str, Any]:
        """As options."""
        moments = self.moments_path if rounding == COMPENSATED else None
        return {"rounding": rounding, "second_moments": moments}

    def judge(self, types: Mapping[str, str], rounding: str = REFERENCE) -> dict[str, float]:
        """What the model with these types is like on the texts that judge."""
        if rounding != self.rounding:
            self.probers[self.rounding].restore()
            self.rounding = rounding
        prober = self.probers[rounding]
        prober.become({name: kind for name, kind in types.items() if name in self.chosen})
        values = prober.measure()
        by_chunk = values.mean(axis=1)
        return {
            "kl": float(values.mean()),
            "error": float(by_chunk.std(ddof=1) / np.sqrt(len(by_chunk))),
            "p99.9": float(np.quantile(values, 0.999)),
            "maximum": float(values.max()),
        }

    def judge_plan(self, made: Plan, rounding: str = REFERENCE) -> dict[str, float]:
        types = {t.name: t.type for t in made.tensors if not t.is_copied}
        return self.judge(types, rounding) | {"bytes": made.file_bytes}

    def fit(self, sensitivity: Sensitivity, wish: Wish, rounding: str = REFERENCE) -> Fit:
        options = {**WIDTHS, **self._rounded(rounding)}
        return fit(self.source, sensitivity, wish, imatrix=self.matrix, **options)

    def plan(self, name: str) -> Plan:
        if name in TIERS:
            return apex.plan(self.source, tier=name, imatrix=self.matrix, **WIDTHS)
        return apex.plan(self.source, file_type=name, imatrix=self.matrix)

    def energies(self) -> dict[str, float]:
        """By tensor, the sum of its squares, which makes relative errors absolute."""
        made = apex.plan(self.source, file_type="Q8_0", imatrix=self.matrix)
        return {name: found.squares for name, found in apex.measure_errors(made).items()}


def sizes(bench: Bench, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """At the bytes of each: it, two choices by errors alone, and the fit, refined and not."""
    sensitivity, _ = bench.sensitivity(*MAIN)
    energies = bench.energies()
    for name in names:
        wish = Wish(like=name)
        fitted = bench.fit(sensitivity, wish)
        row: dict[str, Any] = {"name": name, "itself": bench.judge_plan(bench.plan(name))}
        for label, weight in (("squared error", energies), ("relative error", None)):
            row[label] = bench.judge(_by_errors(fitted, sensitivity, weight))
        row["fit"] = bench.judge_plan(fitted.plan) | {"predicted": fitted.predicted}
        if name in REFINED:
            refined = _refined(bench, sensitivity, wish, fitted)
            row["refined"] = bench.judge_plan(refined.plan)
        print(json.dumps(row), flush=True)
        yield row


def rounding(bench: Bench) -> Iterator[dict[str, Any]]:
    """At the bytes of each tier: it and the fit, and both compensated; and the fit to that."""
    plain, _ = bench.sensitivity(*MAIN)
    own, _ = bench.sensitivity(*MAIN, COMPENSATED)
    for name in TIERS:
        wish, tier = Wish(like=name), bench.plan(name)
        fits = {"fit": bench.fit(plain, wish), "fit to it": bench.fit(own, wish, COMPENSATED)}
        row: dict[str, Any] = {"name": name, "itself": bench.judge_plan(tier)}
        row["fit"] = bench.judge_plan(fits["fit"].plan)
        row["compensated"] = bench.judge_plan(tier, COMPENSATED)
        row["fit, compensated"] = bench.judge_plan(fits["fit"].plan, COMPENSATED)
        row["fit to compensated"] = bench.judge_plan(fits["fit to it"].plan, COMPENSATED)
        row["fit to compensated"]["predicted"] = fits["fit to it"].predicted
        print(json.dumps(row), flush=True)
        yield row


def _by_errors(
    fitted: Fit, sensitivity: Sensitivity, energies: Mapping[str, float] | None
) -> dict[str, str]:
    """What errors alone would choose in the same bytes."""
    items = []
    for item in fitted.choices.items:
        (name,) = fitted.choices.members[item.name]
        weight = 1.0 if energies is None else energies[name]
        errors = sensitivity.errors[name]
        choices = (Choice(c.type, c.bytes, weight * errors[c.type]) for c in item.choices)
        items.append(replace(item, choices=tuple(choices)))
    allocation = Frontier(items).within(fitted.solution.bytes)
    return fitted.choices.types(allocation.choices)


def _refined(bench: Bench, sensitivity: Sensitivity, wish: Wish, first: Fit) -> Fit:
    """One round over the calibration text; half of the chunks decide."""
    whole = Judge(bench.source, bench.matrix, sensitivity, bench.texts, RunOptions(), chunks=16)
    fitting, apart = whole.halves()
    with whole.session():
        refined = refine(first, sensitivity, lambda s: bench.fit(s, wish), fitting, apart, rounds=1)
    return refined.fit


def predictions(bench: Bench) -> Iterator[dict[str, Any]]:
    """Predicted and measured KL of solved and of random choices of types."""
    sensitivity, _ = bench.sensitivity(*MAIN)
    fitted = bench.fit(sensitivity, Wish(like="i-compact"))
    frontier = Frontier(fitted.choices.items)
    smallest, largest = frontier.smallest.bytes, frontier.largest.bytes
    drawn = random.Random(1)
    for number in range(RANDOM):
        budget = smallest + (largest - smallest) * (number + 0.5) / RANDOM
        solved = frontier.within(round(budget)).choices
        yield _prediction(bench, fitted, "solved", solved)
        # Random types of about a size: each tensor's among those near a mean that is drawn.
        place = drawn.random()
        chosen = {}
        for item in fitted.choices.items:
            ordered = sorted(item.choices, key=lambda choice: choice.bytes)
            index = round(place * (len(ordered) - 1) + drawn.gauss(0, 2.5))
            chosen[item.name] = ordered[max(0, min(index, len(ordered) - 1))]
        yield _prediction(bench, fitted, "random", chosen)


def _prediction(
    bench: Bench, fitted: Fit, kind: str, chosen: Mapping[str, Choice]
) -> dict[str, Any]:
    size = sum(choice.bytes for choice in chosen.values()) + fitted.choices.fixed_bytes
    loss = sum(choice.loss for choice in chosen.values())
    row = {
        "kind": kind,
        "bits": 8 * size / bench.source.reference.weights,
        "loss": loss,
        "predicted": fitted.kl(loss),
        **bench.judge(fitted.choices.types(chosen)),
    }
    print(json.dumps(row), flush=True)
    return row


def costs(bench: Bench) -> Iterator[dict[str, Any]]:
    """What is spent on measuring, against the KL of the files."""
    for detail, chunks, text in COSTS:
        sensitivity, cost = bench.sensitivity(detail, chunks, text)
        row: dict[str, Any] = {"detail": detail, "chunks": chunks, "text": text, **cost}
        row["kl"] = {
            name: bench.judge_plan(bench.fit(sensitivity, Wish(like=name)).plan)["kl"]
            for name in TIERS
        }
        print(json.dumps(row), flush=True)
        yield row


PARTS: dict[str, Callable[[Bench], Iterator[dict[str, Any]]]] = {
    "sizes": lambda bench: sizes(bench, TIERS),
    "stock": lambda bench: sizes(bench, STOCK),
    "predictions": predictions,
    "cost": costs,
    "rounding": rounding,
}


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"processor": names[0] if names else "", "threads": apex.cpu_info().threads}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--parts", default="sizes,stock,predictions,cost")
    parser.add_argument("--chunks", type=int, default=8, help="of each text that judges")
    parser.add_argument("--imatrix", type=Path)
    parser.add_argument("--second-moments", type=Path)
    given = parser.parse_args()
    begin = time.monotonic()
    bench = Bench(given)
    found: dict[str, Any] = {}
    if given.output.exists():
        found = json.loads(given.output.read_text(encoding="utf-8"))
    found |= {
        "model": given.model.name,
        "machine": machine(),
        "apex": apex.__version__,
        "texts": sorted(set(bench.names)),
        "positions": int(bench.divergences.chunks.size // 2),
    }
    for part in given.parts.split(","):
        found[part] = list(PARTS[part](bench))
        given.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
