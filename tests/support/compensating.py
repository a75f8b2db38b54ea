"""Compensated rounding against the numpy model, on inputs that break kernels.

Run as a script, by python -m support.compensating, it compares random cases for --seconds, under
the instruction set that APEX_ISA names, prints what differs and ends with 1. With --write it only
writes what apex makes of the fixed cases, so that the model has to be asked only once for several
instruction sets.
"""

from __future__ import annotations

import argparse
import itertools
import pickle
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from support.blocks import FORMS, Array, Rounded, read
from support.compensation import compensated
from support.objectives import make_objective, packed

from apex import _core

Random = np.random.Generator


def correlated(random: Random, rows: int, columns: int) -> Array:
    """Inputs that move together: an eighth as many directions as columns, and a little of all."""
    directions = columns // 8
    common = random.standard_normal((rows, directions)) @ random.standard_normal(
        (directions, columns)
    )
    return common + 0.5 * random.standard_normal((rows, columns))


def _idle(random: Random, columns: int) -> Array:
    x = correlated(random, columns, columns)
    x[:, 5:40] = 0
    return x


# Rows that go into a matrix, float (rows, columns), and how often each did.
INPUTS = {
    "correlated": lambda random, n: (correlated(random, n, n), 30),
    "independent": lambda random, n: (random.standard_normal((n, n)), 30),
    "no rows": lambda random, n: (np.zeros((0, n)), 0),
    "one row": lambda random, n: (correlated(random, 1, n), 1),
    "ten rows": lambda random, n: (correlated(random, 10, n), 1),
    "a hundred rows": lambda random, n: (correlated(random, 100, n), 1),
    "constant": lambda random, n: (np.full((1, n), 3.0), 100000),
    "two directions": lambda random, n: (random.standard_normal((2, n)), 10000),
    "idle columns": lambda random, n: (_idle(random, n), 30),
    "all sizes": lambda random, n: (correlated(random, n, n) * 10 ** random.uniform(-6, 3, n), 30),
    "tiny": lambda random, n: (correlated(random, n, n) * 1e-15, 1),
    "large": lambda random, n: (correlated(random, n, n) * 1e12, 1),
}


def _zeros(x: Array, random: Random) -> Array:
    """Runs of 16, 32 and all weights of a row are zero."""
    x.reshape(-1, 16)[random.random(x.size // 16) < 0.2] = 0
    x.reshape(-1, 32)[random.random(x.size // 32) < 0.2] = 0
    x[0] = 0
    return x


def _outliers(x: Array, random: Random) -> Array:
    x[:, ::64] *= 300
    return x


WEIGHTS = {
    "normal": lambda x, random: x,
    "heavy tailed": lambda x, random: random.standard_t(2, x.shape),
    "zeros": _zeros,
    "zero": lambda x, random: 0 * x,
    "outliers": _outliers,
    "positive": lambda x, random: np.abs(x),
    "equal": lambda x, random: np.full_like(x, 0.7),
    "near the least binary16": lambda x, random: x * 10.0 ** random.uniform(-9, -5, (len(x), 1)),
    "denormal": lambda x, random: x * 1e-40,
    "large": lambda x, random: 1000 * np.abs(x) - 50000,
    "far from zero": lambda x, random: 3 + 0.1 * x,
}


@dataclass(frozen=True)
class Case:
    """Weights float32 (rows, columns), and the moments of their inputs and of all matrices'."""

    name: str
    kind: str
    w: Array
    moments: tuple[Array, float, Array, float]  # sums, rows, pooled, pooled_rows


def make_case(kind: str, inputs: str, weights: str, shape: tuple[int, int], seed: int) -> Case:
    random = np.random.default_rng(seed)
    w = WEIGHTS[weights](random.standard_normal(shape), random)
    own, times = INPUTS[inputs](random, shape[1])
    others = correlated(random, 64, shape[1])
    if own.any():
        others *= np.abs(own).mean()
    sums, more = times * (own.T @ own), others.T @ others
    rows = times * len(own)
    moments = packed(sums), rows, packed(sums + more), rows + len(others)
    name = f"{kind}, {weights} weights {shape}, {inputs} inputs, seed {seed}"
    return Case(name, kind, np.ascontiguousarray(w, np.float32), moments)


def everything() -> Iterator[Case]:
    """Every type, all inputs and all weights, and more rows than are rounded side by side."""
    for seed, (kind, form) in enumerate(FORMS.items()):
        columns = 96 if form.weights == 32 else 512 if kind in ("Q4_K", "IQ2_S") else 256
        yield make_case(kind, "correlated", "normal", (5, columns), seed)
    pairs = itertools.islice(zip(itertools.cycle(INPUTS), itertools.cycle(WEIGHTS)), len(INPUTS))
    for seed, pair in enumerate(pairs):
        yield make_case("Q4_1", *pair, (70, 96), seed)
        yield make_case("Q2_K", *pair, (40, 256), seed)
    for seed, pair in enumerate(zip(INPUTS, reversed(WEIGHTS), strict=False)):
        kind = ("IQ4_XS", "IQ2_XS", "IQ1_S", "IQ3_XXS", "Q3_K", "IQ1_M")[seed % 6]
        yield make_case(kind, *pair, (2, 256), seed)
    for kind, shape in [("Q3_K", (70, 256)), ("Q5_0", (133, 32)), ("IQ3_XXS", (35, 256))]:
        yield make_case(kind, "a hundred rows", "heavy tailed", shape, 0)
    # So many that a sum in another order changes some level.
    yield make_case("Q8_0", "correlated", "outliers", (2000, 96), 0)
    yield make_case("Q4_1", "correlated", "far from zero", (700, 96), 0)


def at_random(seed: int) -> Iterator[Case]:
    """Random cases; there is no last one."""
    random = np.random.default_rng(seed)
    while True:
        kind = str(random.choice(list(FORMS)))
        columns = FORMS[kind].weights * int(random.integers(1, 4))
        inputs, weights = str(random.choice(list(INPUTS))), str(random.choice(list(WEIGHTS)))
        shape = (int(random.integers(1, 20)), columns)
        yield make_case(kind, inputs, weights, shape, int(random.integers(2**31)))


def reference(case: Case) -> Array:
    """uint8 (rows, bytes): what compensation begins with."""
    moments = _core.Objective(case.w.shape[1], *case.moments).moments
    made = _core.quantize(case.w, case.kind, moments.diagonal().copy())
    return np.asarray(made).reshape(len(case.w), -1)


def apex_bytes(case: Case, threads: int = 1) -> Array:
    objective = _core.Objective(case.w.shape[1], *case.moments, threads=threads)
    made = reference(case).copy()
    _core.compensate(case.w, case.kind, objective, made, threads=threads)
    return made


def expected(case: Case) -> Rounded:
    """What the model makes."""
    return compensated(case.w, case.kind, reference(case), make_objective(*case.moments))


def difference(case: Case, found: Array, wanted: Rounded) -> str | None:
    """What is different between the bytes and the model; None if nothing is."""
    fields = read(found, case.kind, case.w.shape[1]).fields()
    parts = []
    for name, values in wanted.fields().items():
        count = int((fields[name] != values).sum())
        if name in ("d", "dmin"):  # zeros have signs
            count = int((fields[name].view(np.int32) != values.view(np.int32)).sum())
        parts += [f"{name}: {count} of {values.size}"] * (count > 0)
    return f"{case.name}: {', '.join(parts)}" if parts else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    print(_core.active_isa(), flush=True)
    if arguments.write:
        arguments.write.write_bytes(pickle.dumps([apex_bytes(case) for case in everything()]))
        return 0
    end = time.monotonic() + arguments.seconds
    failed = False
    for case in itertools.takewhile(lambda _: time.monotonic() < end, at_random(arguments.seed)):
        line = difference(case, apex_bytes(case), expected(case))
        if line:
            failed = True
            print(line, flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
