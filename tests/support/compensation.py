"""Compensated rounding in plain numpy: the definition that csrc/compensation keeps to the last bit.

Everything is float32, rows side by side. The order of a sum is part of the definition: from the
first column on, one product after the other, unless something else is said.

H is the objective: the error e of a row costs e H e^T. H = U D U^T, U unit upper triangular, so
that is also the sum over columns j of D_j (e_j + owed_j)^2, where owed_j, the sum over k < j of
e_k U_kj, is what the errors before column j leave it to make up for.

A row begins as the reference has it. It is fed: part after part, the integers of the scale and the
minimum and then the levels are chosen so that each makes up for the errors before it; where that
costs more than the reference, the row is given back. Two sweeps follow, block after block: d and
dmin, then of each part the integers and the levels move to where the objective is least, the rest
staying. At last one factor per row gives the outputs their size.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from copy import deepcopy

import numpy as np
from support.blocks import FORMS, Array, Rounded, read
from support.choosing import Levels, Points
from support.objectives import F, Objective, ordered, product

TOO_LARGE = F(65505)  # for binary16
SWEEPS = 2


def to_half(x: Array) -> Array:
    return x.astype(np.float16).astype(F)


class Compensation:
    """Rows of weights, and what they become."""

    def __init__(self, w: Array, kind: str, data: Array, objective: Objective) -> None:
        self.w, self.objective, self.form = w, objective, FORMS[kind]
        self.now = read(data.reshape(len(w), -1), kind, w.shape[1])
        self.steps = (Levels if self.form.points is None else Points)(self.form, objective)

    def run(self) -> Rounded:
        with np.errstate(all="ignore"):
            reference = deepcopy(self.now)
            start = ordered(self.error() * product(self.error(), self.objective.moments))
            fed = self.feed()
            for name, before in reference.fields().items():
                after = self.now.fields()[name]
                after[:] = np.where((fed < start)[:, np.newaxis], after, before)
            for _ in range(SWEEPS):
                for b in range(self.now.d.shape[1]):
                    self.descend(b)
            self.unshrink()
        return self.now

    def parts(self, b: int) -> Iterator[tuple[int, slice]]:
        """The parts of block b, with their columns."""
        part, per_block = self.form.part, self.form.weights // self.form.part
        for p in range(b * per_block, (b + 1) * per_block):
            yield p, slice(p * part, (p + 1) * part)

    def block_of(self, p: int) -> int:
        return p * self.form.part // self.form.weights

    def scale(self, p: int) -> Array:
        integer = self.now.scale[:, p]
        return self.now.d[:, self.block_of(p)] * (F(self.form.base) + F(self.form.step) * integer)

    def min(self, p: int) -> Array:
        return self.now.dmin[:, self.block_of(p)] * self.now.min[:, p]

    def down(self, at: slice) -> Array:
        """Whether IQ1 moves what begins there down."""
        value = self.now.value[:, at.start]
        return value < np.rint(value)

    def wide(self, x: Array) -> Array:
        """By weight what is by part or by block."""
        return np.repeat(x, self.w.shape[1] // x.shape[1], axis=1)

    def of_scales(self) -> tuple[Array, Array]:
        """What d and dmin are multiplied by, by weight."""
        integers = F(self.form.base) + F(self.form.step) * self.wide(self.now.scale)
        return integers * self.now.value, self.wide(self.now.min)

    def error(self, at: slice = slice(None)) -> Array:
        integers = F(self.form.base) + F(self.form.step) * self.wide(self.now.scale)
        s, m = self.wide(self.now.d) * integers, self.wide(self.now.dmin) * self.wide(self.now.min)
        return (s * self.now.value - m - self.w)[:, at]

    def feed(self) -> Array:
        """Rounds part after part, so that each makes up for those before; returns the objective."""
        total = np.zeros(len(self.w), F)
        for b in range(self.now.d.shape[1]):
            for p, at in self.parts(b):
                before = self.error(slice(at.start))
                owed = product(before, self.objective.factors[: at.start, at].T)
                down = self.choose_integers(p, at, owed)
                given = owed.copy()
                self.now.value[:, at] = self.steps.feed(
                    at, given, self.w[:, at], self.scale(p), self.min(p), down
                )
                miss = self.error(at) + given
                total += ordered(self.objective.pivots[at] * miss * miss)
        return total

    def choose_integers(self, p: int, at: slice, owed: Array) -> Array:
        """Of a scale and a minimum, near those there are; returns where IQ1_S moves down."""
        down = self.down(at)
        if self.form.scales[0] == self.form.scales[1]:
            return down
        scale, least = self.now.scale[:, p].copy(), self.now.min[:, p].copy()
        cost = self.part_cost(p, at, owed, down)
        best = (cost, scale, least, down)
        for is_down, a, c in itertools.product((False, True), *self.steps_of_integers()):
            if is_down and self.form.shifts != 32:
                break
            self.now.scale[:, p], self.now.min[:, p] = scale + a, least + c
            towards = np.full_like(down, is_down)
            cost = self.part_cost(p, at, owed, towards)
            better = (cost < best[0]) & self.allowed(p)
            found = (cost, scale + a, least + c, towards)
            best = tuple(np.where(better, x, y) for x, y in zip(found, best, strict=True))
        _, self.now.scale[:, p], self.now.min[:, p], down = best
        return down

    def part_cost(self, p: int, at: slice, owed: Array, down: Array) -> Array:
        return self.steps.cost(at, owed, self.w[:, at], self.scale(p), self.min(p), down)

    def steps_of_integers(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (-1, 0, 1), (-1, 0, 1) if self.form.mins else (0,)

    def allowed(self, p: int) -> Array:
        scale, least = self.now.scale[:, p], self.now.min[:, p]
        (low, high), (low_min, high_min) = self.form.scales, self.form.mins or (0, 0)
        return (scale >= low) & (scale <= high) & (least >= low_min) & (least <= high_min)

    def descend(self, b: int) -> None:
        """Moves what block b is made of, each to where the objective is least."""
        block = slice(b * self.form.weights, (b + 1) * self.form.weights)
        slope = product(self.error(), self.objective.moments[block])  # half the objective's
        self.refit(b, block, slope)
        for p, at in self.parts(b):
            here = slice(at.start - block.start, at.stop - block.start)
            before = self.error(at)
            self.move_integers(p, at, slope[:, here])
            self.steps.descend(
                *(at, self.now.value[:, at], slope[:, here], self.scale(p), self.min(p)),
                self.down(at),
            )
            along = self.error(at) - before
            rest = slice(at.stop, block.stop)
            for k in range(self.form.part):
                row = self.objective.moments[at.start + k, rest]
                slope[:, here.stop :] += along[:, k : k + 1] * row

    def move_integers(self, p: int, at: slice, slope: Array) -> None:
        """By one at most, the levels staying."""
        if self.form.scales[0] == self.form.scales[1]:
            return
        block, value = self.objective.moments[at, at], self.now.value[:, at]
        along, across = product(value, block), ordered(block)
        linear, square = ordered(value * slope), ordered(value * along)
        mixed, total, all_ = ordered(along), ordered(slope), ordered(across)
        b = self.block_of(p)
        unit, min_unit = self.now.d[:, b] * F(self.form.step), self.now.dmin[:, b]
        scale, least = self.now.scale[:, p].copy(), self.now.min[:, p].copy()
        best = by = min_by = np.zeros_like(unit)
        for a, c in itertools.product(*self.steps_of_integers()):
            s, m = unit * F(a), min_unit * F(c)
            gain = (
                2 * (s * linear - m * total)
                + s * s * square
                - 2 * s * m * mixed
                + m * m * all_
            )  # fmt: skip
            self.now.scale[:, p], self.now.min[:, p] = scale + a, least + c
            better = (gain < best) & self.allowed(p)
            found = (gain, np.full_like(by, a), np.full_like(by, c))
            best, by, min_by = (
                np.where(better, x, y) for x, y in zip(found, (best, by, min_by), strict=True)
            )
        self.now.scale[:, p], self.now.min[:, p] = scale + by, least + min_by
        slope += (unit * by)[:, np.newaxis] * along
        slope -= (min_unit * min_by)[:, np.newaxis] * across

    def refit(self, b: int, block: slice, slope: Array) -> None:
        """d and dmin by least squares, where they are better once they are binary16."""
        d, dmin, has_mins = self.now.d[:, b], self.now.dmin[:, b], self.form.mins is not None
        of_d, of_min = (x[:, block] for x in self.of_scales())
        square_block = self.objective.moments[block, block]
        along, across = product(of_d, square_block), product(of_min, square_block)
        linear, square = ordered(of_d * slope), ordered(of_d * along)
        min_linear, min_square = ordered(of_min * slope), ordered(of_min * across)
        mixed = ordered(of_min * along)
        by, min_by = -linear / square, np.zeros_like(d)
        if has_mins:
            both = square * min_square - mixed * mixed
            solvable = both > F(1e-5) * square * min_square
            joint = (mixed * min_linear - linear * min_square) / both
            other = (square * min_linear - mixed * linear) / both
            by, min_by = np.where(solvable, joint, by), np.where(solvable, other, min_by)
        new_d, new_dmin = to_half(d + by), to_half(dmin + min_by)
        s, m = new_d - d, new_dmin - dmin
        gain = 2 * s * linear + s * s * square
        if has_mins:
            gain += m * m * min_square - 2 * (m * min_linear + s * m * mixed)
        fits = (np.abs(new_d) < TOO_LARGE) & (new_d != 0) & (np.abs(new_dmin) < TOO_LARGE)
        better = (gain < 0) & fits
        self.now.d[:, b] = np.where(better, new_d, d)
        self.now.dmin[:, b] = np.where(better, new_dmin, dmin)
        slope += np.where(better, s, F(0))[:, np.newaxis] * along
        if has_mins:
            slope -= np.where(better, m, F(0))[:, np.newaxis] * across

    def unshrink(self) -> None:
        """Multiplies the scales of a row by w H w^T / w H v^T, v being what w has become.

        Of a block whose d or dmin would leave binary16, neither.
        """
        along = product(self.w, self.objective.moments)
        factor = ordered(along * self.w) / ordered(along * (self.w + self.error()))
        kept = ((factor > F(0.8)) & (factor < F(1.5)))[:, np.newaxis]
        scales = self.now.d, self.now.dmin
        scaled = [to_half(x * factor[:, np.newaxis]) for x in scales]
        for x, new in zip(scales, scaled, strict=True):
            kept = kept & ((new != 0) | (x == 0)) & (np.abs(new) < TOO_LARGE)
        for x, new in zip(scales, scaled, strict=True):
            x[:] = np.where(kept, new, x)


def compensated(w: Array, kind: str, data: Array, objective: Objective) -> Rounded:
    """What compensated rounding makes of float32 (rows, columns); data: what quantize() made."""
    return Compensation(w, kind, data, objective).run()
