"""Do scalings that fold into a stock file make it quantize better? Measures, prints a table.

python bench/smoothing.py MODEL DATA OUTPUT.json --imatrix FILE [--second-moments FILE]
    [--types Q3_K,…] [--linears] [--places "up and down",…] [--chunks N] [--judge apart.txt]
    [--shuffles N]

A place is where columns of some matrices can be multiplied by s and what makes their inputs be
divided by it, with the same outputs: a norm's gains and all its readers, rows of up and columns of
down in each expert, rows of v and columns of attn_output, the gains of ssm_norm and columns of
ssm_out. The place "order" multiplies nothing: it gives the channels of each expert, which are rows
of gate and up and columns of down, another order. They are dealt out by falling importance, so that
each block of 16 (or 32) columns gets its share of the important ones, whose errors then can be kept
small at the cost of the others.

With h the importance of a column and m the root mean square of its weights, s is
h^(a/4) m^(-b/2): with a = b = 1, columns of a block whose weights all have the same number of
levels cost the least. Of the pairs in POWERS, each layer (each expert between up and down) gets
the one with the least error of its outputs on the calibration text, as the bench's rounding
measures it; none is a choice too. The rest is as in bench/rounding.py.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from folding import Change, Place, dealt, mixed
from rounding import TYPES, Bench

import apex
from apex import _core
from apex.quantizing import round_rows
from apex.types import tensor_bytes

POWERS = ((0.25, 0.0), (0.25, 0.5), (0.5, 0.5), (0.5, 1.0), (1.0, 1.0))
#: Columns of the blocks that the channels are dealt to.
ORDERS = (16, 32)


class Smoothing(Bench):
    """A bench whose model can be changed before it is quantized."""

    def __init__(self, given: argparse.Namespace) -> None:
        super().__init__(given)
        self.tensors = {tensor.name: tensor for tensor in self.source.tensors}
        self.pools: dict[str, tuple[np.ndarray, int]] = {}
        meta = self.source.metadata
        prefix = self.source.architecture + ".attention."
        self.group = meta[prefix + "head_count"] // meta[prefix + "head_count_kv"]
        self.head = meta[prefix + "value_length"]

    def weights(self, name: str) -> np.ndarray:
        """float32 (matrices, rows, columns)."""
        tensor = self.tensors[name]
        data = np.empty(tensor.bytes, np.uint8)
        self.source.read(tensor, 0, data.data)
        values = _core.dequantize(data, tensor.type, shape=(tensor.weights,))
        return values.reshape(tensor.experts, -1, tensor.columns)

    def importance(self, name: str) -> np.ndarray | None:
        """float32 (matrices, columns)."""
        known = self.candidates[name].importance if name in self.candidates else None
        return None if known is None else known.values(self.matrix)

    def places(self) -> list[Place]:
        """All there are in the trunk."""
        found = []
        for layer in range(len(self.tensors)):
            here = {
                name.removeprefix(f"blk.{layer}.").removesuffix(".weight"): name
                for name in self.tensors
                if name.startswith(f"blk.{layer}.") and self.resident.holds(name)
            }
            found += self._norms(here) + self._inner(here)
        everything = {name.removesuffix(".weight"): name for name in self.tensors}
        return found + self._norm("output norm", "output_norm", ("output",), everything)

    def _norms(self, here: Mapping[str, str]) -> list[Place]:
        attention = ("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_gate", "ssm_alpha", "ssm_beta")
        inner = ("exps", "shexp", "inp", "inp_shexp")
        ffn = [f"ffn_{what}_{which}" for what in ("gate", "up") for which in inner]
        return [
            *self._norm("attention norm", "attn_norm", attention, here),
            *self._norm("ffn norm", "post_attention_norm", ffn, here),
        ]

    def _norm(self, kind: str, norm: str, readers: Any, here: Mapping[str, str]) -> list[Place]:
        if norm not in here:
            return []
        names = tuple(here[reader] for reader in readers if reader in here)
        return [Place(kind, names, (here[norm],), np.arange(self.tensors[names[0]].columns))]

    def _inner(self, here: Mapping[str, str]) -> list[Place]:
        found = []
        for which in ("exps", "shexp"):
            if f"ffn_down_{which}" in here:
                down, up, gate = (here[f"ffn_{what}_{which}"] for what in ("down", "up", "gate"))
                channels = np.arange(self.tensors[down].columns)
                found.append(Place("up and down", (down,), (up,), channels))
                found.append(Place("order", (down,), (), channels, (up, gate)))
        if "attn_output" in here:
            column = np.arange(self.tensors[here["attn_output"]].columns)
            head, channel = np.divmod(column, self.head)
            spread = head // self.group * self.head + channel
            found.append(Place("v and output", (here["attn_output"],), (here["attn_v"],), spread))
        if "ssm_out" in here:
            size = self.tensors[here["ssm_norm"]].columns
            spread = np.arange(self.tensors[here["ssm_out"]].columns) % size
            found.append(Place("ssm norm", (here["ssm_out"],), (here["ssm_norm"],), spread))
        return found

    def quantized(self, name: str, type_name: str, rounding: str, change: Change) -> np.ndarray:
        """The changed tensor's bytes."""
        tensor, importance = self.tensors[name], self.importance(name)
        shape = (tensor.experts, tensor.rows // tensor.experts, tensor.columns)
        made = np.empty(tensor_bytes(type_name, tensor.shape), np.uint8)
        rows = change.apply(name, self.weights(name)).reshape(-1).view(np.uint8)
        scaled = None if importance is None else change.inputs(name, importance)
        entry = None if self.moments is None else self.moments.entry(name)

        def objective(expert: int) -> _core.Objective:
            return self.objective(name, expert, change)

        use = objective if rounding == "compensated" and entry is not None else None
        round_rows(rows, "F32", shape, type_name, scaled, rounding, made, 0, use)
        return made

    def objective(self, name: str, expert: int, change: Change) -> _core.Objective:
        assert self.moments is not None
        entry = self.moments.entry(name)
        assert entry is not None
        if name not in self.pools:
            self.pools[name] = entry.pooled()
        pooled, rows = self.pools[name]
        sums = change.moments(name, expert, entry.sums(expert))
        pooled = change.moments(name, expert, pooled)
        return _core.Objective(entry.columns, sums, float(entry.rows[expert]), pooled, float(rows))

    def errors(self, name: str, type_name: str, rounding: str, change: Change) -> np.ndarray:
        """By matrix, the error of the outputs that the calibration saw, up to a factor."""
        made = self.quantized(name, type_name, rounding, change)
        weights, importance = self.weights(name), self.importance(name)
        found = _core.dequantize(made, type_name, shape=(weights.size,)).reshape(weights.shape)
        errors = change.undo(name, found) - weights
        if rounding == "compensated" and importance is not None:
            plain = [self.objective(name, e, Change()).moments for e in range(len(errors))]
            return np.array(
                [((e @ h) * e).sum() for e, h in zip(errors, plain, strict=True)], np.float64
            )
        if importance is None:
            gains = self.weights("output_norm.weight")
            importance = np.square(gains.reshape(1, -1))
        return np.einsum("erc,ec->e", errors**2, importance)

    def statistics(self, place: Place) -> tuple[np.ndarray, np.ndarray]:
        """Importance and mean square of the weights, (matrices of the scale, its values).

        Each matrix that reads counts the same. Where there is no importance, the squares of the
        norm's gains stand for it.
        """
        size = place.spread.max() + 1
        parts: list[list[np.ndarray]] = [[], []]
        for name in place.readers:
            if name not in self.candidates:
                continue
            importance = self.importance(name)
            if importance is None:
                importance = np.square(self.weights(place.writers[0]).reshape(1, -1))
            squares = np.square(self.weights(name)).mean(1)
            for part, values in zip(parts, (importance, squares), strict=True):
                sums = np.zeros((len(values), size))
                np.add.at(sums, (slice(None), place.spread), values)
                part.append(sums / sums.mean(1, keepdims=True))
        h, m = (np.concatenate(part) for part in parts)
        if len(place.readers) > 1:
            h, m = h.mean(0, keepdims=True), m.mean(0, keepdims=True)
        floor = 1e-6
        return np.maximum(h, floor), np.maximum(m, floor)

    def changed(self, place: Place, candidate: Any) -> Change:
        """What a candidate for the scale, or for the order, makes of the tensors."""
        h, m = self.statistics(place)
        if place.kind == "order":
            order = dealt(h, candidate)
            return Change(
                column_order=dict.fromkeys(place.readers, order),
                row_order=dict.fromkeys(place.kept, order),
            )
        scale = h ** (candidate[0] / 4) * m ** (-candidate[1] / 4)
        scale = (scale / np.exp(np.log(scale).mean(1, keepdims=True))).astype(np.float32)
        return Change(
            columns=dict.fromkeys(place.readers, scale[:, place.spread]),
            rows=dict.fromkeys(place.writers, scale),
        )

    def choose(
        self, place: Place, types: Mapping[str, str], rounding: str
    ) -> tuple[Change, list[Any], np.ndarray]:
        """The best candidates, one for each matrix of the scale, and the error that they leave.

        Relative to that of the unchanged model; each matrix that reads counts the same.
        """
        candidates: Any = ORDERS if place.kind == "order" else POWERS
        changes = [self.changed(place, each) for each in candidates]
        readers = [name for name in place.readers if name in types]
        table = [
            [self.errors(name, types[name], rounding, change) for name in readers]
            for change in (Change(), *changes)
        ]
        ratios = [[e / b for e, b in zip(row, table[0], strict=True)] for row in table]
        if len(place.readers) > 1:
            errors = np.array([[np.concatenate(row).mean()] for row in ratios])
        else:
            errors = np.array([row[0] for row in ratios])
        which = errors.argmin(0)
        return mixed(changes, which), [("as it is", *candidates)[n] for n in which], errors.min(0)

    def measure_changed(
        self, types: Mapping[str, str], rounding: str, change: Change
    ) -> np.ndarray:
        """KL divergence in nats (chunks, positions) of the changed model with these types."""
        self.resident.restore()
        for name, type_name in types.items():
            self.resident.replace(
                name, type_name, self.quantized(name, type_name, rounding, change)
            )
        for name in change.names() - types.keys():
            changed = change.apply(name, self._as_rows(name, change))
            kind = self.tensors[name].type
            data = changed.astype(np.float16 if kind == "F16" else np.float32)
            self.resident.replace(name, kind, data.reshape(-1).view(np.uint8))
        return self.divergences.measure()

    def _as_rows(self, name: str, change: Change) -> np.ndarray:
        """The gains of a norm are what divides, so each of them is a row."""
        weights = self.weights(name)
        is_gain = name in change.rows and weights.shape[1] == 1
        return weights.reshape(1, -1, 1) if is_gain else weights


def row_of(
    bench: Smoothing, what: str, rounding: str, kinds: list[str], *, linears: bool
) -> dict[str, Any]:
    """What each kind of place gives, and all together."""
    types = bench.types_of(what, linears=linears)
    tensors = ("linears" if linears else "experts") if what in TYPES else "tier"
    first = bench.measure_changed(types, rounding, Change())
    row: dict[str, Any] = {
        "type": what,
        "tensors": tensors,
        "chunks": len(bench.names),
        "rounding": rounding,
        "kl": float(first.mean()),
        "places": {},
    }
    every = Change()
    for kind in kinds:
        change, chosen, errors = Change(), [], []
        for place in bench.places():
            if place.kind == kind and types.keys() & set(place.readers):
                found, names, left = bench.choose(place, types, rounding)
                change.add(found)
                chosen += map(str, names)
                errors += left.tolist()
        if chosen:
            every.add(change)
            row["places"][kind] = {
                "objective": float(np.mean(errors)),
                "chosen": dict(Counter(chosen).most_common()),
                **compared(bench.measure_changed(types, rounding, change), first),
            }
            print(what, rounding, kind, json.dumps(row["places"][kind]), flush=True)
    if len(row["places"]) > 1:
        row["places"]["all"] = compared(bench.measure_changed(types, rounding, every), first)
        print(what, rounding, "all", json.dumps(row["places"]["all"]), flush=True)
    return row


def shuffled(
    bench: Smoothing, what: str, rounding: str, *, count: int, linears: bool
) -> list[dict[str, float]]:
    """What shuffling the channels of each expert does: no better nor worse, but other errors."""
    types = bench.types_of(what, linears=linears)
    first = bench.measure_changed(types, rounding, Change())
    found = []
    for seed in range(count):
        random, change = np.random.default_rng(seed), Change()
        for place in bench.places():
            if place.kind == "order":
                matrices = bench.tensors[place.readers[0]].experts
                order = np.stack([random.permutation(place.spread) for _ in range(matrices)])
                change.column_order[place.readers[0]] = order
                change.row_order |= dict.fromkeys(place.kept, order)
        found.append(compared(bench.measure_changed(types, rounding, change), first))
        print(what, rounding, "shuffled", json.dumps(found[-1]), flush=True)
    return found


def compared(values: np.ndarray, first: np.ndarray) -> dict[str, float]:
    found, before = values.mean(axis=1), first.mean(axis=1)
    ratio = found.mean() / before.mean()
    apart = (found - ratio * before).std(ddof=1) / np.sqrt(len(found))
    return {
        "kl": float(found.mean()),
        "ratio": float(ratio),
        "error": float(apart / before.mean()),
    }


def unquantized(bench: Smoothing, kinds: list[str]) -> dict[str, float]:
    """KL divergence of the changed model whose weights are F16: what the rounding to F16 costs."""
    result = {}
    for kind in kinds:
        change = Change()
        for place in bench.places():
            if place.kind == kind:
                change.add(bench.changed(place, ORDERS[0] if kind == "order" else POWERS[-1]))
        result[kind] = float(bench.measure_changed({}, "reference", change).mean())
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--types", default="Q4_K,Q3_K,Q2_K,IQ2_S")
    parser.add_argument("--linears", action="store_true")
    parser.add_argument("--chunks", type=int, default=16, help="of each text that judges")
    parser.add_argument("--imatrix", type=Path)
    parser.add_argument("--second-moments", type=Path)
    parser.add_argument("--places", help="kinds of places; else all")
    parser.add_argument("--shuffles", type=int, default=0, help="how often to see what chance does")
    parser.add_argument("--judge", default="eval-*.txt", help="texts in DATA that judge")
    given = parser.parse_args()
    bench = Smoothing(given)
    known = list(dict.fromkeys(place.kind for place in bench.places()))
    kinds = known if given.places is None else given.places.split(",")
    rows = json.loads(given.output.read_text("utf-8"))["rows"] if given.output.exists() else []
    checked = json.loads(given.output.read_text("utf-8"))["unquantized"] if rows else None
    found = {
        "model": given.model.name,
        "apex": apex.__version__,
        "isa": _core.inference_features(),
        "unquantized": checked or unquantized(bench, known),
        "rows": rows,
    }
    print(found["unquantized"], flush=True)
    for what in filter(None, given.types.split(",")):
        for rounding in ("reference", *(["compensated"] if bench.moments else [])):
            row = row_of(bench, what, rounding, kinds, linears=given.linears)
            row["shuffled"] = shuffled(
                bench, what, rounding, count=given.shuffles, linears=given.linears
            )
            rows.append({"judge": given.judge, **row})
            given.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
