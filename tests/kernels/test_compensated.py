"""Compensated rounding: the numpy model's bytes, and a smaller objective."""

from __future__ import annotations

import itertools
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from support import compensating
from support.blocks import FORMS, Array, Rounded, read
from support.compensating import Case, apex_bytes, make_case, reference
from support.objectives import make_objective, packed

from apex import _core

TESTS = Path(__file__).parents[1]
TYPES = list(FORMS)
FACTS = {facts.name: facts for facts in _core.tensor_types()}


@pytest.fixture(scope="module")
def expected() -> list[Rounded]:
    """What the model makes of every case."""
    return [compensating.expected(case) for case in compensating.everything()]


@pytest.mark.parametrize("isa", _core.available_isas())
def test_bytes_are_those_of_the_model(isa: str, expected: list[Rounded], tmp_path: Path) -> None:
    file = tmp_path / "made"
    result = subprocess.run(
        [sys.executable, "-m", "support.compensating", "--write", file],
        cwd=TESTS,
        env={**os.environ, "APEX_ISA": isa, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [isa]  # what really ran
    made = pickle.loads(file.read_bytes())
    compared = zip(compensating.everything(), made, expected, strict=True)
    assert [line for three in compared if (line := compensating.difference(*three))] == []


def test_a_difference_would_be_seen(expected: list[Rounded]) -> None:
    case = next(compensating.everything())
    made = apex_bytes(case)
    made[1, 7] ^= 1
    assert "value: 1 of" in str(compensating.difference(case, made, expected[0]))
    made[1, 7] ^= 1
    made[0, 1] ^= 128
    assert "d: 1 of" in str(compensating.difference(case, made, expected[0]))


@pytest.mark.parametrize("inputs", compensating.INPUTS)
def test_the_objective_is_that_of_the_model(inputs: str) -> None:
    case = make_case("Q4_0", inputs, "normal", (1, 160), 0)
    wanted = make_objective(*case.moments)
    for threads in (1, 2, 7):
        made = _core.Objective(160, *case.moments, threads=threads)
        assert made.columns == 160
        assert np.array_equal(made.moments, wanted.moments)


@pytest.mark.parametrize(("excess", "raised"), [(2e-4, 1e-3), (5e-3, 1.1e-2), (0.05, 0.111)])
def test_the_diagonal_is_raised_where_no_inputs_have_such_moments(
    excess: float, raised: float
) -> None:
    """As after sums whose rounding errors are larger than what the least direction has."""
    sums = packed(np.full((32, 32), 1 + excess) - excess * np.eye(32))
    made = _core.Objective(32, sums, 1, sums, 1, damping=0, level=1e-5).moments
    assert np.array_equal(made, make_objective(sums, 1, sums, 1, 0, 1e-5).moments)
    assert np.allclose(made.diagonal(), 1 + 1e-5 + raised, rtol=1e-6)


@pytest.mark.parametrize("damping", [None, 0.0, 0.3])
@pytest.mark.parametrize(
    ("rows", "pooled_rows"), [(0, 30), (1, 31), (100, 0), (100, 900), (2000, 0)]
)
def test_the_objective_by_hand(rows: int, pooled_rows: int, damping: float | None) -> None:
    random = np.random.default_rng(5)
    own, pooled = random.standard_normal((rows, 32)), random.standard_normal((pooled_rows, 32)) * 2
    sums = [packed(x.T @ x) for x in (own, pooled)]
    made = _core.Objective(
        *(32, sums[0], rows, sums[1], pooled_rows), prior_rows=10, damping=damping
    )
    wanted = own.T @ own + 10 * (pooled.T @ pooled) / max(pooled_rows, 1)
    wanted /= np.trace(wanted) / 32
    damping = max(3.0 * 32 / max(rows, 1), 0.1) if damping is None else damping
    wanted += np.diag(damping * wanted.diagonal() + 0.1)
    assert np.allclose(made.moments, wanted, rtol=1e-6, atol=1e-6)


def columns_of(kind: str) -> int:
    return max(FACTS[kind].block_weights, 96)


def product(a: Array, moments: Array, b: Array) -> Array:
    """a H b^T of every row, float64."""
    result: Array = ((a.astype(np.float64) @ moments) * b).sum(1)
    return result


@dataclass
class Outcome:
    """What becomes of a case: bytes and, float64, the weights that they stand for."""

    case: Case
    start: Array
    made: Array
    moments: Array  # H

    @classmethod
    def of(cls, case: Case) -> Outcome:
        moments = _core.Objective(case.w.shape[1], *case.moments).moments
        return cls(case, reference(case), apex_bytes(case), moments.astype(np.float64))

    def rounded(self, data: Array) -> Array:
        made: Array = _core.dequantize(data, self.case.kind)
        return made.reshape(self.case.w.shape).astype(np.float64)

    def cost(self, data: Array) -> Array:
        error = self.rounded(data) - self.case.w
        return product(error, self.moments, error)

    def cost_at_its_best_size(self, data: Array) -> Array:
        """By row, if its scales were multiplied by what is best."""
        w, v = self.case.w, self.rounded(data)
        size, along = product(v, self.moments, v), product(w, self.moments, v)
        return product(w, self.moments, w) - along**2 / np.where(size > 0, size, 1)

    def rounding_of_scales(self, data: Array) -> Array:
        """How far the rounding of scales to binary16 can move a row, as a norm under H."""
        columns, form = self.case.w.shape[1], FORMS[self.case.kind]
        fields = read(data, self.case.kind, columns).fields().values()
        wide = (np.repeat(x.astype(np.float64), columns // x.shape[1], 1) for x in fields)
        d, dmin, scale, least, value = wide
        total = np.zeros(len(data))
        for first in range(0, columns, form.weights):
            at = slice(first, first + form.weights)
            for x in (d * (form.base + form.step * scale) * value, dmin * least):
                total += np.sqrt(product(x[:, at], self.moments[at, at], x[:, at]))
        return total * 2.0**-11


@pytest.mark.parametrize("kind", TYPES)
def test_no_row_gets_worse(kind: str) -> None:
    """Unshrinking aside, which is why what is made is compared at its best size."""
    weights = itertools.cycle(("heavy tailed", "zeros", "equal", "outliers", "far from zero"))
    for inputs, name in zip(compensating.INPUTS, weights, strict=False):
        outcome = Outcome.of(make_case(kind, inputs, name, (4, columns_of(kind)), 7))
        _core.check(outcome.made, kind)
        best = np.sqrt(np.maximum(outcome.cost_at_its_best_size(outcome.made), 0))
        start = np.sqrt(outcome.cost(outcome.start))
        assert (best <= start * (1 + 1e-5) + outcome.rounding_of_scales(outcome.made)).all(), inputs


@pytest.mark.parametrize("kind", TYPES)
def test_errors_of_columns_that_move_together_cancel(kind: str) -> None:
    outcome = Outcome.of(make_case(kind, "correlated", "normal", (20, columns_of(kind)), 3))
    start, made = outcome.cost(outcome.start), outcome.cost(outcome.made)
    assert (made < start).all()
    assert made.sum() < 0.6 * start.sum()


@pytest.mark.parametrize("kind", TYPES)
def test_outputs_keep_their_size(kind: str) -> None:
    case = make_case(kind, "correlated", "normal", (20, columns_of(kind)), 4)
    outcome = Outcome.of(case)
    size = product(case.w, outcome.moments, outcome.rounded(outcome.made))
    wanted = product(case.w, outcome.moments, case.w)
    allowed = outcome.rounding_of_scales(outcome.made) * np.sqrt(wanted)
    assert (np.abs(size - wanted) <= allowed + 1e-6 * wanted).all()


@pytest.mark.parametrize(("d", "dmin"), [(6000, 64500), (64500, 6000)])
def test_a_block_keeps_both_scales_where_one_would_be_infinite(d: float, dmin: float) -> None:
    """First blocks come out too small; the factor of their rows is too large for the second."""
    random = np.random.default_rng(0)
    w = np.clip(2e5 * random.standard_t(2, (6, 512)), -8e5, 8e5)
    w[:, 256:] = 15 * (d * random.integers(0, 4, (6, 256)) - dmin)
    x = 30 * random.standard_normal((512, 512))
    x[:, 256:] *= 1e-3
    sums = packed(x.T @ x)
    case = Case("limit", "Q2_K", w.astype(np.float32), (sums, 15360, sums, 15360))
    made = apex_bytes(case)
    fields = read(made, "Q2_K", 512)
    assert np.allclose(fields.d[:, 1], d, rtol=0.01)
    assert np.allclose(fields.dmin[:, 1], dmin, rtol=0.01)
    assert compensating.difference(case, made, compensating.expected(case)) is None
    outcome = Outcome.of(case)  # the second blocks are what keeps outputs from their size
    size = product(case.w, outcome.moments, outcome.rounded(made))
    assert (size < 0.995 * product(case.w, outcome.moments, case.w)).all()


@pytest.mark.parametrize("kind", ["Q2_K", "IQ3_XXS"])
def test_rows_and_threads_are_of_no_consequence(kind: str) -> None:
    case = make_case(kind, "correlated", "normal", (133, 256), 1)
    made = apex_bytes(case)
    for threads in (2, 7):
        assert np.array_equal(apex_bytes(case, threads), made)
    objective, parts = _core.Objective(256, *case.moments), reference(case).copy()
    for at in (slice(0, 1), slice(1, 40), slice(40, 133)):
        _core.compensate(case.w[at], kind, objective, parts[at])
    assert np.array_equal(parts, made)


@pytest.mark.parametrize("source", ["F16", "BF16"])
def test_weights_can_be_halves(source: str) -> None:
    case = make_case("Q4_K", "correlated", "normal", (3, 256), 2)
    stored = _core.quantize(case.w, source)
    case = replace(case, w=_core.dequantize(stored, source))
    made = reference(case).copy()
    objective = _core.Objective(256, *case.moments)
    _core.compensate(stored, "Q4_K", objective, made, src_type=source)
    assert np.array_equal(made, apex_bytes(case))


@pytest.mark.parametrize("kind", TYPES)
def test_weights_that_are_zero_stay_so(kind: str) -> None:
    case = make_case(kind, "correlated", "zero", (2, columns_of(kind)), 0)
    assert not _core.dequantize(apex_bytes(case), kind).any()


Q4_0 = make_case("Q4_0", "correlated", "normal", (2, 64), 0)


def compensate(w: Array = Q4_0.w, kind: str = "Q4_0", out: Array | None = None) -> Array:
    made = reference(Q4_0).copy() if out is None else out
    _core.compensate(w, kind, _core.Objective(64, *Q4_0.moments), made)
    return made


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_weights_are_an_error(bad: float) -> None:
    w = Q4_0.w.copy()
    w[1, 3] = bad
    with pytest.raises(_core.BadDataError, match="NaN or infinite"):
        compensate(w)


@pytest.mark.parametrize("size", [1e9, 1e25, 3e37])
@pytest.mark.parametrize("kind", TYPES)
def test_weights_that_are_too_large_leave_valid_blocks(kind: str, size: float) -> None:
    """Blocks of others, as the reference refuses to make some of such weights."""
    case = make_case(kind, "correlated", "normal", (2, columns_of(kind)), 0)
    made = reference(case).copy()
    objective = _core.Objective(case.w.shape[1], *case.moments)
    _core.compensate(case.w * np.float32(size), kind, objective, made)
    _core.check(made, kind)


@pytest.mark.parametrize("kind", ["F16", "F32", "MXFP4", "TQ2_0"])
def test_types_that_cannot_be_compensated(kind: str) -> None:
    columns = max(FACTS[kind].block_weights, 64)
    case = make_case("Q8_0", "correlated", "normal", (2, columns), 0)
    made = np.asarray(_core.quantize(case.w, kind))
    with pytest.raises(ValueError, match=f"type {kind} has no compensated rounding"):
        _core.compensate(case.w, kind, _core.Objective(columns, *case.moments), made)


def test_arguments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="the output has"):
        compensate(out=reference(Q4_0)[:1].copy())
    with pytest.raises(ValueError, match="the objective is for one matrix of 64 columns"):
        compensate(Q4_0.w[:, :32].copy(), out=reference(Q4_0)[:, :18].copy())
    with pytest.raises(ValueError, match="the objective is for one matrix of 64 columns"):
        compensate(Q4_0.w[np.newaxis].repeat(2, 0), out=np.tile(reference(Q4_0), (2, 1)))
    with pytest.raises(ValueError):
        compensate(kind="Q4_K")


@pytest.mark.parametrize("columns", [0, 31, 33])
def test_moments_of_other_columns_are_refused(columns: int) -> None:
    sums = packed(np.eye(32))
    with pytest.raises(ValueError, match="the lower triangle of a square of the columns"):
        _core.Objective(columns, sums, 1, sums, 1)
    with pytest.raises(ValueError, match="the lower triangle of a square of the columns"):
        _core.Objective(32, sums, 1, sums[:-1], 1)


@pytest.mark.parametrize("place", [(0, 0), (7, 3), (31, 31), (31, 0)])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1e9])
def test_moments_of_no_inputs_are_refused(bad: float, place: tuple[int, int]) -> None:
    square = np.eye(32)
    square[place] = bad
    sums, fine = packed(square), packed(np.eye(32))
    for moments in ((sums, 1, fine, 1), (fine, 1, sums, 1)):
        with pytest.raises(ValueError, match="the second moments are"):
            _core.Objective(32, *moments)


def test_moments_that_say_nothing_are_refused() -> None:
    none = packed(np.zeros((32, 32)))
    with pytest.raises(ValueError, match="the second moments are zero"):
        _core.Objective(32, none, 0, none, 0)
