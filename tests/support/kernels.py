"""Kernels against ggml's own functions, on inputs that break kernels.

Run as a script it compares everything once for the instruction set that APEX_ISA names, and then
random combinations for --seconds. It prints what differs and ends with 1.

ggml builds the tables of its smallest types anew in every process, for twenty seconds. So whoever
tests several instruction sets has the script --write what apex makes, and asks ggml only once.
"""

from __future__ import annotations

import argparse
import itertools
import pickle
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from apex import _core

apex_reference = pytest.importorskip("apex_reference", reason="only editable installs have it")

Floats = np.ndarray

BLOCK = 256

TYPES = [
    *("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "IQ4_XS", "IQ4_NL", "IQ3_S", "IQ3_XXS"),
    *("IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4"),
]
FACTS = {facts.name: facts for facts in _core.tensor_types()}


def _mixed_zero(x: Floats, random: np.random.Generator) -> Floats:
    """Whole runs of 16, 32 and 256 weights are zero."""
    flat = x.reshape(-1)
    for length in (16, 32, 256):
        if flat.size < length:
            continue
        for start in random.integers(0, flat.size // length, 1 + flat.size // 1024):
            flat[start * length : (start + 1) * length] = 0
    return x


def _outlier(x: Floats, random: np.random.Generator) -> Floats:
    x *= 1e-3
    x[:, :: BLOCK // 2] = 100 * random.choice([-1, 1], x[:, :: BLOCK // 2].shape)
    return x


def _scaled_blocks(x: Floats, random: np.random.Generator) -> Floats:
    """Every 32 weights have a size of their own, over forty orders of magnitude."""
    parts = x.reshape(-1, 32)
    parts *= 10.0 ** random.uniform(-40, 4, (len(parts), 1))
    return x


def _ties(x: Floats, random: np.random.Generator) -> Floats:
    return np.round(2 * x) / 2


INPUTS: dict[str, Callable[[Floats, np.random.Generator], Floats]] = {
    "normal": lambda x, random: x,
    "heavy tailed": lambda x, random: random.standard_t(2, x.shape),
    "uniform": lambda x, random: random.uniform(-1, 1, x.shape),
    "constant": lambda x, random: np.full_like(x, 1.25),
    "negative constant": lambda x, random: np.full_like(x, -0.7),
    "zero": lambda x, random: np.zeros_like(x),
    "negative zero": lambda x, random: np.where(x > 0, 0.0, -0.0),
    "outlier": _outlier,
    "alternating": lambda x, random: np.where(np.arange(x.size).reshape(x.shape) % 2, -1.0, 1.0),
    "denormal": lambda x, random: x * 1e-40,
    "smallest normal": lambda x, random: x * 2e-38,
    "near the thresholds": lambda x, random: x * 10.0 ** random.uniform(-16, -6),
    "huge": lambda x, random: x * 15000,
    "beyond binary16": lambda x, random: x * 1e9,
    "enormous": lambda x, random: x * 1e25,
    "mixed zeros": _mixed_zero,
    "positive": lambda x, random: np.abs(x),
    "negative": lambda x, random: -np.abs(x) - 1e-3,
    "far from zero": lambda x, random: 3 + 0.1 * x,
    "ties": _ties,
    "binary16": lambda x, random: x.astype(np.float16),
    "all sizes": _scaled_blocks,
    "powers of two": lambda x, random: np.sign(x) * 2.0 ** np.round(4 * x),
}

IMPORTANCES: dict[str, Callable[[int, np.random.Generator], Floats] | None] = {
    "none": None,
    "lognormal": lambda n, random: random.lognormal(0, 1, n),
    "constant": lambda n, random: np.ones(n),
    "sparse": lambda n, random: np.where(random.random(n) < 0.9, 0, random.lognormal(0, 1, n)),
    "zero in part": lambda n, random: np.where(np.arange(n) % 32 < 16, 0, 1.5),
    "zero for a block": lambda n, random: np.where(np.arange(n) // BLOCK % 2 == 0, 0, 2.0),
    "zero": lambda n, random: np.zeros(n),
    "tiny": lambda n, random: 1e-30 * random.lognormal(0, 1, n),
    "large": lambda n, random: 1e20 * random.lognormal(0, 2, n),
    "mixed": lambda n, random: 10.0 ** random.uniform(-20, 10, n),
}


def weights(name: str, rows: int, columns: int, seed: int) -> Floats:
    """float32 (rows, columns)."""
    random = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        made = INPUTS[name](random.standard_normal((rows, columns)), random)
        return np.ascontiguousarray(made, dtype=np.float32)


def importance(name: str, columns: int, seed: int) -> Floats | None:
    make = IMPORTANCES[name]
    random = np.random.default_rng(seed)
    return None if make is None else np.ascontiguousarray(make(columns, random), np.float32)


@dataclass(frozen=True)
class Case:
    """Weights to be quantized as a type, with importance or without."""

    name: str
    type: str
    x: Floats
    weight: Floats | None


def everything() -> Iterator[Case]:
    """Every type, input and importance once, and every row length of one to nine blocks."""
    for type_name in TYPES:
        for seed, name in enumerate(INPUTS):
            for weight_name in IMPORTANCES:
                x = weights(name, 3, 512, seed)
                weight = importance(weight_name, 512, seed)
                yield Case(f"{name}, importance {weight_name}", type_name, x, weight)
        step = FACTS[type_name].block_weights
        for blocks in range(1, 10):
            for weight_name in ("none", "lognormal"):
                x = weights("normal", 3, blocks * step, blocks)
                weight = importance(weight_name, blocks * step, blocks)
                yield Case(f"rows of {blocks} blocks, {weight_name}", type_name, x, weight)


def at_random(seed: int) -> Iterator[Case]:
    """Random types, shapes, and rows that mix two inputs; there is no last one."""
    random = np.random.default_rng(seed)
    while True:
        number = int(random.integers(2**31))
        pick = np.random.default_rng(number)
        type_name = str(pick.choice(TYPES))
        columns = int(pick.integers(1, 9)) * FACTS[type_name].block_weights
        rows = int(pick.integers(1, 20))
        first, second = (str(name) for name in pick.choice(list(INPUTS), 2))
        mixed = np.where(
            pick.random((rows, 1)) < 0.5,
            weights(first, rows, columns, number),
            weights(second, rows, columns, number + 1),
        )
        weight_name = str(pick.choice(list(IMPORTANCES)))
        weight = importance(weight_name, columns, number)
        yield Case(f"case {number}: {first} and {second}, {weight_name}", type_name, mixed, weight)


def cases(count: int, seed: int) -> Iterator[Case]:
    """All of the former and ``count`` of the latter."""
    return itertools.chain(everything(), itertools.islice(at_random(seed), count))


def apex_bytes(case: Case) -> Floats | str:
    """What apex makes; where it refuses, its message."""
    try:
        made: Floats = _core.quantize(case.x, case.type, case.weight, threads=1)
    except ValueError as error:
        return str(error)
    return made


def ggml_bytes(case: Case) -> Floats | None:
    """What ggml makes; None where it gives up or writes a block that it does not accept itself."""
    if case.weight is None and FACTS[case.type].needs_importance:
        return None
    try:
        made: Floats = apex_reference.quantize_with_ggml(case.x, case.type, case.weight)
        _core.check(made, case.type)
    except (RuntimeError, ValueError):
        return None
    return made


def difference(case: Case, found: Floats | str, expected: Floats | None) -> str | None:
    """What is different between apex and ggml; None if nothing is.

    Where ggml cannot write, apex must refuse.
    """
    if isinstance(found, str):
        what = None if expected is None else f"refused: {found}"
    elif expected is None:
        what = "accepted what ggml cannot write"
    else:
        size = FACTS[case.type].block_bytes
        blocks = (found.reshape(-1, size) != expected.reshape(-1, size)).any(axis=1)
        first = f"{blocks.sum()} of {blocks.size} blocks, the first is {blocks.argmax()}"
        what = first if blocks.any() else None
    return None if what is None else f"{case.type}, {case.name}: {what}"


def lasting(seconds: float, cases: Iterable[Case]) -> Iterator[Case]:
    """As many as there is time for."""
    end = time.monotonic() + seconds
    return itertools.takewhile(lambda _: time.monotonic() < end, cases)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0, help="then fuzz for so long")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--write", type=Path, help="only write what apex makes, as a pickled list")
    parser.add_argument("--cases", type=int, default=0, help="of them, how many at random")
    arguments = parser.parse_args()
    print(_core.active_isa(), flush=True)
    if arguments.write:
        made = [apex_bytes(case) for case in cases(arguments.cases, arguments.seed)]
        arguments.write.write_bytes(pickle.dumps(made))
        return 0
    failed = False
    for case in itertools.chain(
        everything(), lasting(arguments.seconds, at_random(arguments.seed))
    ):
        line = difference(case, apex_bytes(case), ggml_bytes(case))
        if line:
            failed = True
            print(line, flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
