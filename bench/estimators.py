"""Which estimate of second moments leaves the least error on other text? Measures, saves tables.

python bench/estimators.py MODEL OUTPUT.json --fit FILE… --test FILE… --halves FILE FILE

All files are second-moment files. Of a sample of matrices, half of the rows are compensated under
what every estimator makes of the moments of a fit, and the error of their outputs, tr(E H E^T), is
taken under the moments of every test, as a multiple of that of the reference's bytes with the same
importance (the fit's). The tables have geometric means over matrices. Every damping by a constant
is a candidate of a choice per tensor and type, made by the error under one half, judged by the
other.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import apex
from apex import _core
from apex.files import SecondMoments, load_second_moments
from apex.sources import Source

TYPES = ("Q3_K", "Q2_K", "IQ2_S", "IQ2_XXS")
LAYERS = (2, 7, 13)
EXPERTS = tuple(
    f"blk.{n}.ffn_{role}_exps.weight" for n in LAYERS for role in ("gate", "up", "down")
)
DENSE = tuple(
    f"blk.{name}.weight" for name in ("2.attn_qkv", "2.ssm_out", "13.attn_qkv", "11.attn_output")
)
GROUPS = {
    "gate and up": ("_gate_exps", "_up_exps"),
    "down": ("_down_exps",),
    "dense": ("attn", "ssm"),
}
# Of the rows of inputs that a matrix was fitted to.
BINS = ((1, 500), (500, 1200), (1200, 4500), (4500, float("inf")))
DAMPINGS = (0.02, 0.1, 0.3, 1, 3, 10)
PRIOR = 256

Array = np.ndarray
# Of the sum over its rows, the number of rows and the pooled mean: H, up to a factor.
Estimator = Callable[[Array, float, Array], Array]


def prior(own: Array, pooled: Array, rows: float = PRIOR) -> Array:
    return own + rows * pooled


def damped(square: Array, damping: float) -> Array:
    return square + damping * np.diag(square.diagonal())


def raised(square: Array, share: float) -> Array:
    """Toward the identity: by a share of the mean of the diagonal."""
    return square + share * square.diagonal().mean() * np.eye(len(square))


def low_rank(square: Array, rank: int) -> Array:
    """The largest eigenvalues of the correlations, and a diagonal that keeps that of H."""
    size = np.sqrt(np.maximum(square.diagonal(), 1e-30))
    values, vectors = np.linalg.eigh(square / size / size[:, np.newaxis])
    part = (vectors[:, -rank:] * values[-rank:]) @ vectors[:, -rank:].T
    np.fill_diagonal(part, 1)
    return part * size * size[:, np.newaxis]


def with_diagonal(square: Array, diagonal: Array) -> Array:
    """Its correlations with another diagonal."""
    size = np.sqrt(diagonal / np.maximum(square.diagonal(), 1e-30))
    return square * size * size[:, np.newaxis]


def lacking(square: Array, rows: float) -> float:
    return len(square) / max(rows, 1)


def present(square: Array, rows: float, pooled: Array, prior_rows: float = PRIOR) -> Array:
    """As the product makes it."""
    share = max(3 * lacking(square, rows), 0.1)
    drawn = prior(square, pooled, prior_rows)
    return (
        drawn
        + share * np.diag(drawn.diagonal())
        + 0.1 * drawn.diagonal().mean() * np.eye(len(drawn))
    )


def estimators() -> dict[str, Estimator]:
    found: dict[str, Estimator] = {
        "present": present,
        "diagonal": lambda s, n, p: np.diag(prior(s, p).diagonal()),
        "pooled": lambda s, n, p: damped(p, 0.1),
        "pooled, own diagonal": lambda s, n, p: damped(
            with_diagonal(p, prior(s, p).diagonal()), 0.1
        ),
    }
    for x in (0, *DAMPINGS):
        found[f"damping {x:g}"] = lambda s, n, p, x=x: damped(prior(s, p), x)
    for x in (0.3, 1, 3, 10):
        found[f"damping {x:g} d/n"] = lambda s, n, p, x=x: damped(prior(s, p), x * lacking(s, n))
    for x in (0.6, 2):
        found[f"damping {x:g} sqrt(d/n)"] = lambda s, n, p, x=x: damped(
            prior(s, p), x * lacking(s, n) ** 0.5
        )
    for x in (0, 64, 1024, 4096):
        found[f"prior {x}"] = lambda s, n, p, x=x: damped(prior(s, p, x), 3 * lacking(s, n))
    for x in (1024, 4096):
        found[f"prior {x}, damping d/n"] = lambda s, n, p, x=x: damped(
            prior(s, p, x), lacking(s, n)
        )
        found[f"prior {x}, own diagonal"] = lambda s, n, p, x=x: damped(
            with_diagonal(prior(s, p, x), prior(s, p).diagonal()), lacking(s, n)
        )
    for x in (0.3, 1, 3):
        found[f"identity {x:g} d/n"] = lambda s, n, p, x=x: raised(prior(s, p), x * lacking(s, n))
    for x in (0.03, 0.1, 0.3):
        found[f"damping 3 d/n, identity {x:g}"] = lambda s, n, p, x=x: raised(
            damped(prior(s, p), 3 * lacking(s, n)), x
        )
        found[f"damping {x:g}, identity {x:g}"] = lambda s, n, p, x=x: raised(
            damped(prior(s, p), x), x
        )
    found["present, prior 1"] = lambda s, n, p: present(s, n, p, 1)
    for x in (16, 64):
        found[f"rank {x}"] = lambda s, n, p, x=x: damped(low_rank(prior(s, p), x), 0.02)
        found[f"rank {x}, damped"] = lambda s, n, p, x=x: damped(
            low_rank(prior(s, p), x), lacking(s, n)
        )
    return found


def square_of(packed: Array, columns: int) -> Array:
    square = np.zeros((columns, columns))
    square[np.tril_indices(columns)] = packed
    return square + np.tril(square, -1).T


def objective_of(square: Array) -> _core.Objective:
    """H as it is."""
    scaled = square / square.diagonal().mean()
    packed = scaled[np.tril_indices(len(scaled))].astype(np.float32)
    return _core.Objective(
        len(scaled), packed, 1, np.zeros_like(packed), 0, damping=0, level=1e-5, threads=1
    )


class Sample:
    """The matrices: name, number, weights."""

    def __init__(self, source: Source, moments: SecondMoments) -> None:
        tensors = {tensor.name: tensor for tensor in source.tensors}
        self.matrices: list[tuple[str, int, Array]] = []
        for name in (*EXPERTS, *DENSE):
            tensor, entry = tensors[name], moments.entry(name)
            assert entry is not None
            raw = np.empty(tensor.bytes, np.uint8)
            source.read(tensor, 0, raw.data)
            weights = raw.view(np.float16).reshape(tensor.experts, -1, tensor.columns)
            order = np.argsort(entry.rows)
            places = {len(order) * part // 8 for part in (1, 4, 7)}
            for matrix in order[sorted(places)].tolist():
                self.matrices.append((name, matrix, weights[matrix, ::2].astype(np.float32)))


def moments_of(file: SecondMoments, name: str, matrix: int) -> tuple[Array, float, Array]:
    """The sum, its rows, and the pooled mean."""
    entry = file.entry(name)
    assert entry is not None
    pooled, rows = entry.pooled()
    return (
        square_of(entry.sums(matrix), entry.columns),
        float(entry.rows[matrix]),
        square_of(pooled, entry.columns) / rows,
    )


def errors(
    weights: Array, fit: tuple[Array, float, Array], tests: Array, chosen: dict[str, Estimator]
) -> Array:
    """tr(E H E^T) by estimator, type and test, over the reference's; last, the reference's own."""
    own, rows, pooled = fit
    importance = (own.diagonal() / max(rows, 1)).astype(np.float32)
    importance = importance if importance.any() else np.ones_like(importance)
    started = [_core.quantize(weights, name, importance, threads=1) for name in TYPES]

    def cost(made: Array, name: str) -> Array:
        off = _core.dequantize(made, name, shape=weights.shape).reshape(weights.shape) - weights
        return np.tensordot(tests, (off.T @ off).astype(np.float64), 2)

    first = np.array([cost(made, name) for made, name in zip(started, TYPES, strict=True)])
    found = []
    for estimator in chosen.values():
        objective = objective_of(estimator(own, rows, pooled))
        for made, name, before in zip(started, TYPES, first, strict=True):
            result = made.copy()
            _core.compensate(weights, name, objective, result, threads=1)
            found.append(cost(result, name) / before)
    return np.array([*found, *first]).reshape(len(chosen) + 1, len(TYPES), len(tests))


def measured(
    sample: Sample, fits: Sequence[SecondMoments], tests: Sequence[SecondMoments]
) -> tuple[Array, Array]:
    """Errors by fit, matrix, estimator (last the reference), type and test; rows by fit, matrix."""
    chosen = estimators()
    shape = (len(fits), len(sample.matrices), len(chosen) + 1, len(TYPES), len(tests))
    found, rows = np.zeros(shape), np.zeros(shape[:2])
    for m, (name, matrix, weights) in enumerate(sample.matrices):
        under = np.array([moments_of(test, name, matrix)[0] for test in tests])
        for f, file in enumerate(fits):
            fit = moments_of(file, name, matrix)
            rows[f, m] = fit[1]
            found[f, m] = errors(weights, fit, under, chosen)
        print(name, matrix, rows[:, m].tolist(), flush=True)
    return found, rows


def mean(ratios: Array) -> list[float] | float:
    """Geometric, over the first axis, where a test had rows."""
    return np.exp(np.nanmean(np.log(ratios), axis=0)).round(4).tolist()


def by_rows(found: Array, rows: Array, groups: dict[str, Array]) -> list[dict[str, Any]]:
    """Under the first test, the matrices of all fits together by how many rows they had."""
    table = []
    for group, members in groups.items():
        for least, most in BINS:
            here = members & (rows >= least) & (rows < most)
            if here.any():
                part = found[here][:, :-1, :, 0]
                table.append(
                    {
                        "group": group,
                        "matrices": int(here.sum()),
                        "median_rows": float(np.median(rows[here])),
                        "ratios": dict(zip(estimators(), mean(part), strict=True)),
                    }
                )
    return table


def by_choice(found: Array, names: Array) -> list[list[float]]:
    """By fit and type: with a damping chosen on one half, over the formula's, on the other half.

    found: the halves last. Each half chooses once, and what both choices give is averaged.
    """
    order = list(estimators())
    candidates = [order.index("present"), *(order.index(f"damping {x:g}") for x in DAMPINGS)]
    gains = []
    for name in np.unique(names):
        mine = np.log(found[:, names == name][:, :, candidates]).mean(axis=1)
        for choosing, judging in ((0, 1), (1, 0)):
            best = mine[..., choosing].argmin(axis=1, keepdims=True)
            judged = mine[..., judging]
            gains.append(np.exp(np.take_along_axis(judged, best, 1)[:, 0] - judged[:, 0]))
    return mean(np.array(gains))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--fit", nargs="+", required=True)
    parser.add_argument("--test", nargs="+", required=True)
    parser.add_argument("--halves", nargs=2, required=True)
    given = parser.parse_args()
    fits = [load_second_moments(path) for path in given.fit]
    tests = [load_second_moments(path) for path in (*given.test, *given.halves)]
    sample = Sample(apex.open_model(given.model), fits[-1])
    found, rows = measured(sample, fits, tests)
    names = np.array([name for name, _, _ in sample.matrices])
    groups = {
        group: np.array([any(word in name for word in words) for name in names])
        for group, words in GROUPS.items()
    }
    experts, order = ~groups["dense"], list(estimators())

    def called(paths: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
        return dict(zip([Path(path).name.partition(".")[0] for path in paths], values, strict=True))

    shift = [mean(part[experts, :-1, :, : len(given.test)].mean(axis=2)) for part in found]
    result = {
        "model": given.model.name,
        "machine": "AMD EPYC, AVX2, 2 processors",
        "types": TYPES,
        "matrices": [[name, matrix] for name, matrix, _ in sample.matrices],
        "rows": called(given.fit, rows.astype(int).tolist()),
        "by_rows": by_rows(found, rows, groups),
        "experts": called(
            given.fit,
            [
                {k: called(given.test, v) for k, v in zip(order, part, strict=True)}
                for part in shift
            ],
        ),
        "chosen_over_present": called(given.fit, by_choice(found[..., -2:], names)),
    }
    given.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
