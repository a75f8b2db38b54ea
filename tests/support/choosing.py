"""How levels are chosen in compensated rounding, as plain numpy: see support/compensation.py."""

from __future__ import annotations

import itertools

import numpy as np
from support.blocks import Array, Form
from support.objectives import F, Objective, ordered

DELTA = F(0.125)  # what IQ1 moves its points by
MUCH = F(3e38)


class Levels:
    """Where every weight has its own level."""

    def __init__(self, form: Form, objective: Objective) -> None:
        assert form.levels is not None
        self.levels, self.objective = form.levels, objective

    def nearest(self, x: Array) -> Array:
        """The nearest level; of integers, between two the even one, else the higher."""
        low, high = self.levels[0], self.levels[-1]
        if len(self.levels) == int(high - low) + 1:
            return np.rint(np.fmin(np.fmax(x, low), high))
        between = (self.levels[1:] + self.levels[:-1]) / 2
        return self.levels[(x[..., np.newaxis] >= between).sum(-1)]

    def fit(self, x: Array, inverse: Array, m: Array) -> Array:
        """The level at which s * level - m is nearest to x."""
        return self.nearest((x + m) * inverse)

    @staticmethod
    def inverse(s: Array) -> Array:
        return np.where(s != 0, 1 / s, F(0))

    def cost(self, at: slice, owed: Array, w: Array, s: Array, m: Array, _: Array) -> Array:
        """What a part would cost under a scale and a minimum, if its errors owed nothing."""
        target = w - owed
        s, m = s[:, np.newaxis], m[:, np.newaxis]
        miss = s * self.fit(target, self.inverse(s), m) - m - target
        return ordered(self.objective.pivots[at] * miss * miss)

    def feed(self, at: slice, owed: Array, w: Array, s: Array, m: Array, _: Array) -> Array:
        """Levels that make up for the errors before them."""
        value, inverse = np.zeros_like(w), self.inverse(s)
        for i in range(w.shape[1]):
            value[:, i] = self.fit(w[:, i] - owed[:, i], inverse, m)
            error = s * value[:, i] - m - w[:, i]
            owed[:, i + 1 :] += error[:, np.newaxis] * self.objective.factors[at, at][i, i + 1 :]
        return value

    def descend(self, at: slice, value: Array, slope: Array, s: Array, m: Array, _: Array) -> None:
        """Moves each level to where the objective is least, the others staying; in place.

        slope: half the objective's, by weight; kept current.
        """
        block, inverse = self.objective.moments[at, at], self.inverse(s)
        for i in [*range(value.shape[1])] * 2:
            now = s * value[:, i] - m
            best = self.fit(now - slope[:, i] / block[i, i], inverse, m)
            slope += (s * (best - value[:, i]))[:, np.newaxis] * block[i]
            value[:, i] = best


class Points:
    """Where eight weights are one or two points of a codebook; there are no minima."""

    def __init__(self, form: Form, objective: Objective) -> None:
        assert form.points is not None
        self.form, self.objective, self.points = form, objective, form.points

    def cost(self, at: slice, owed: Array, w: Array, s: Array, m: Array, down: Array) -> Array:
        total = np.zeros_like(s)
        for e in range(0, w.shape[1], 8):
            target = self.targets(at, owed, w, e)
            total += self.search(target, self.weights(at.start + e), s, down)[1]
        return total

    def feed(self, at: slice, owed: Array, w: Array, s: Array, m: Array, down: Array) -> Array:
        value = np.zeros_like(w)
        for e in range(0, w.shape[1], 8):
            target = self.targets(at, owed, w, e)
            value[:, e : e + 8], _ = self.search(target, self.weights(at.start + e), s, down)
            for i in range(e, e + 8):
                error = s * value[:, i] - w[:, i]
                owed[:, i + 1 :] += (
                    error[:, np.newaxis] * self.objective.factors[at, at][i, i + 1 :]
                )
        return value

    def descend(
        self, at: slice, value: Array, slope: Array, s: Array, m: Array, down: Array
    ) -> None:
        for e in range(0, value.shape[1], 8):
            eight = slice(e, e + 8)
            rows = self.objective.moments[at, at][eight]
            block = rows[:, eight]
            before = value[:, eight]
            target = self.least(block, slope[:, eight]) + s[:, np.newaxis] * before
            found, _ = self.search(target, block.diagonal(), s, down)
            change = s[:, np.newaxis] * (found - before)
            gain = np.zeros_like(s)
            for i in range(8):
                terms = np.append(2 * slope[:, e + i, np.newaxis], change * block[i], 1)
                gain += change[:, i] * ordered(terms)
            better = (gain < 0)[:, np.newaxis]
            value[:, eight] = np.where(better, found, before)
            for i in range(8):
                slope += np.where(better, change, F(0))[:, i : i + 1] * rows[i]

    def targets(self, at: slice, owed: Array, w: Array, e: int) -> Array:
        """Of eight weights, if each made up for those before."""
        first = at.start + e
        error = -owed[:, e : e + 8]
        for j in range(8):
            for k in range(j):
                error[:, j] -= error[:, k] * self.objective.factors[first + k, first + j]
        return w[:, e : e + 8] + error

    def weights(self, first: int) -> Array:
        """What an error of each of eight weights costs, once those after make up for it."""
        at = slice(first, first + 8)
        factors, pivots = self.objective.factors[at, at], self.objective.pivots[at]
        result = pivots.copy()
        for j, m in itertools.combinations(range(8), 2):
            result[j] += factors[j, m] * factors[j, m] * pivots[m]
        return result

    @staticmethod
    def least(block: Array, slope: Array) -> Array:
        """Where the objective would be least, as a change: block * change = -slope."""
        a, change = block.copy(), -slope
        for i in range(8):
            inverse = F(1) / a[i, i]
            for r in range(i + 1, 8):
                factor = a[r, i] * inverse
                a[r, i:] -= factor * a[i, i:]
                change[:, r] -= factor * change[:, i]
        for i in reversed(range(8)):
            for k in range(i + 1, 8):
                change[:, i] -= a[i, k] * change[:, k]
            change[:, i] /= a[i, i]
        return change

    def search(self, target: Array, weight: Array, s: Array, down: Array) -> tuple[Array, Array]:
        """The best of all points for eight weights, and what they cost beside nothing at all."""
        if self.form.shifts != 8:
            return self.search_under(target, weight, s, down)
        up_value, up_cost = self.search_under(target, weight, s, np.zeros_like(down))
        value, cost = self.search_under(target, weight, s, np.ones_like(down))
        is_up = up_cost < cost
        return np.where(is_up[:, np.newaxis], up_value, value), np.where(is_up, up_cost, cost)

    def search_under(
        self, target: Array, weight: Array, s: Array, down: Array
    ) -> tuple[Array, Array]:
        s = s[:, np.newaxis]
        square = weight * s * s
        linear = 2 * weight * s * (np.abs(target) if self.form.is_signed else target)
        shift = np.where(down, -DELTA, DELTA) if self.form.shifts else np.zeros_like(target[:, 0])
        size = self.points.shape[1]
        value, turned_value = np.zeros_like(target), np.zeros_like(target)
        cost, extras = np.zeros_like(target[:, 0]), []
        for first in range(0, 8, size):
            at = slice(first, first + size)
            points = self.points + shift[:, np.newaxis, np.newaxis]
            costs = self.costs(points, square[:, at], linear[:, at])
            best = [np.where(each < MUCH, each, MUCH) for each in costs]
            value[:, at], turned_value[:, at] = (
                points[range(len(s)), each.argmin(1)] for each in best
            )
            straight, turned = (each.min(1) for each in best)
            cost += straight
            extras.append(turned - straight)
        if not self.form.is_signed:
            return value, cost
        signs = np.where(target < 0, F(-1), F(1))
        if self.form.is_even:
            self.turn(signs, value, turned_value, linear, np.array(extras))
            cost += np.where(is_odd(target), np.min(extras, 0), F(0))
        return signs * value, cost

    def costs(self, points: Array, square: Array, linear: Array) -> tuple[Array, Array]:
        """By row and point, as the targets' signs have it and with one sign turned."""
        line = linear[:, np.newaxis] * points
        mine = square[:, np.newaxis] * points * points - line
        halves = []
        for half in np.split(np.arange(points.shape[2]), 2):
            straight, turned = np.zeros_like(mine[..., 0]), np.full_like(mine[..., 0], MUCH)
            for i in half:
                if self.form.is_even:
                    here = straight + mine[..., i] + 2 * line[..., i]
                    turned = np.minimum(turned + mine[..., i], here)
                straight = straight + mine[..., i]
            halves.append((straight, turned))
        (low, low_turned), (high, high_turned) = halves
        return low + high, np.minimum(low_turned + high, low + high_turned)

    def turn(
        self, signs: Array, value: Array, turned_value: Array, linear: Array, extras: Array
    ) -> None:
        """Where an odd number is negative: other points in one group, then the cheapest sign."""
        odd = is_odd(signs)
        cheapest = extras.argmin(0)
        here = np.repeat(np.arange(len(extras)), 8 // len(extras)) == cheapest[:, np.newaxis]
        value[:] = np.where(here & odd[:, np.newaxis], turned_value, value)
        rows = np.flatnonzero(odd)
        signs[rows, (linear * value).argmin(1)[rows]] *= -1


def is_odd(x: Array) -> Array:
    """Whether an odd number is negative."""
    return (x < 0).sum(1) % 2 == 1
