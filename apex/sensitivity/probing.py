"""Makes probes: a group of a resident model as another type, and how far that takes the model."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.errors import UsageError
from apex.files import ImportanceMatrix, SecondMoments
from apex.inference import Divergences, ResidentModel
from apex.planning import REFERENCE, rounding_for
from apex.quantizing import Objectives, round_rows
from apex.sensitivity.data import Group, Probe
from apex.sensitivity.errors import CANDIDATES, Candidate
from apex.sensitivity.serial import rounded
from apex.sources import Source
from apex.types import tensor_bytes

__all__ = ["Prober", "types_at", "within_room"]

# Two probes of a group tell something about its slope where their errors differ by this much.
_APART = 0.5
# Types that hold rounded weights as they are.
_FLOATS = ("F32", "F16", "BF16")

Tables = Mapping[str, Mapping[str, float]]


def types_at(
    tensors: Sequence[str],
    level: str,
    candidates: Mapping[str, Candidate],
    tables: Tables,
    known: Sequence[Probe] = (),
) -> dict[str, str]:
    """What the tensors of a group become at a level.

    That is the level's type, or for a tensor that cannot become it the next larger one that it
    can. Where that is hardly another error than in a probe that is known, a smaller error is
    looked for.
    """
    start = CANDIDATES.index(level)
    possible = {name for tensor in tensors for name in candidates[tensor].types}
    larger = [name for name in reversed(CANDIDATES[:start]) if name in possible]
    types: dict[str, str] = {}
    for name in (level, *larger):
        types = {tensor: _fitting(candidates[tensor], name) for tensor in tensors}
        distance = distance_of(types, tables)
        if all(_are_apart(distance, probe.distance) for probe in known):
            break
    return types


def distance_of(types: Mapping[str, str], tables: Tables) -> float:
    """The sum of the tensors' relative errors."""
    return math.fsum(tables[name][type_name] for name, type_name in types.items())


def _are_apart(first: float, second: float) -> bool:
    return min(first, second) <= _APART * max(first, second)


def _fitting(candidate: Candidate, level: str) -> str:
    """The level's type or the next larger one that the tensor can become, or its largest."""
    place = CANDIDATES.index(level)
    fitting = [name for name in candidate.types if CANDIDATES.index(name) <= place]
    return fitting[-1] if fitting else candidate.types[0]


def within_room(
    candidates: Mapping[str, Candidate], room: Source, levels: Sequence[str]
) -> dict[str, Candidate]:
    """The candidates with the types that are at most as large as their tensors in another file.

    room: the model that is resident, whose tensors can be replaced by nothing larger. Raises
    UsageError where a tensor has no room for a level.
    """
    tensors = {tensor.name: tensor for tensor in room.tensors}
    result = {}
    for name, candidate in candidates.items():
        there = tensors[name]
        types = tuple(
            each for each in candidate.types if tensor_bytes(each, there.shape) <= there.bytes
        )
        result[name] = replace(candidate, types=types)
        for level in levels:
            if not any(CANDIDATES.index(each) <= CANDIDATES.index(level) for each in types):
                raise UsageError(
                    f"{name} is {there.type} in {room.reference.name}, which has no room for the "
                    f"level {level}.",
                    "choose smaller --levels, or run a larger file of the model with --resident",
                )
    return result


class Prober:
    """Changes a resident model as asked, measures, and gives its weights back."""

    def __init__(
        self,
        source: Source,
        matrix: ImportanceMatrix | None,
        candidates: Mapping[str, Candidate],
        resident: ResidentModel,
        divergences: Divergences,
        rounding: str = REFERENCE,
        second_moments: SecondMoments | None = None,
    ) -> None:
        """source: the model whose weights are quantized; the resident one may be another file.

        candidates: with types that the resident model has room for. rounding, second_moments: as a
        plan is asked for them, and the candidates were.
        """
        self._source = source
        self._matrix = matrix
        self._candidates = candidates
        self._resident = resident
        self._divergences = divergences
        self._rounding = rounding
        if second_moments is not None:
            self._objectives = Objectives({0: second_moments}, resident.options.threads)
        self._now: dict[str, str] = {}

    def probe(self, group: Group, level: str, tables: Tables, chunks: int | None = None) -> Probe:
        """Measure a group at a level; its numbers are rounded as files have them.

        chunks: over how many, from the first; None for all. Where another probe of the group was
        made with the same types, it is given again. Raises ModelFileError, RunError, DataError.
        """
        types = types_at(group.tensors, level, self._candidates, tables, group.probes)
        label = max(types.values(), key=CANDIDATES.index)  # larger ones stand in for it
        distance = rounded(distance_of(types, tables))
        for known in group.probes:
            if (known.type, known.distance) == (label, distance):
                return known
        kl, error = self.divergence(types, chunks)
        return Probe(label, distance, rounded(kl), rounded(error))

    def rehearse(self, group: Group, level: str, tables: Tables) -> float:
        """Seconds that it takes to change a group to a level and back. Raises as ``probe``."""
        begin = time.monotonic()
        try:
            self._round(types_at(group.tensors, level, self._candidates, tables, group.probes))
        finally:
            self._resident.restore()
        return time.monotonic() - begin

    def divergence(
        self, types: Mapping[str, str], chunks: int | None = None
    ) -> tuple[float, float]:
        """Mean KL divergence of the model with these tensors so, in nats, and its standard error.

        The weights alone are rounded, where the resident model is not quantized itself. The error
        is that of a mean over chunks; 0 where there is only one.
        """
        try:
            self._round(types)
            values = self._divergences.measure(chunks).mean(axis=1)
        finally:
            self._resident.restore()
        error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        return float(values.mean()), error

    def become(self, types: Mapping[str, str]) -> None:
        """Make the model what a file with these types would be; other tensors are as in its file.

        It stays so until ``restore``; what is the same as before is left as it is.
        """
        self._resident.restore(set(self._now) - set(types))
        self._now = {name: kind for name, kind in self._now.items() if name in types}
        for name, type_name in types.items():
            if self._now.get(name) != type_name:
                self._change(name, type_name, as_written=True)
                self._now[name] = type_name

    def measure(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float64]:
        """float64 (chunks, positions): KL divergence in nats of the model as it is now.

        start, stop: over some of the chunks only.
        """
        return self._divergences.measure(stop, start=start)

    def restore(self) -> None:
        """Give back all weights."""
        self._now = {}
        self._resident.restore()

    def _round(self, types: Mapping[str, str]) -> None:
        for name, type_name in types.items():
            self._change(name, type_name, as_written=False)

    def _change(self, name: str, type_name: str, *, as_written: bool) -> None:
        tensor = self._candidates[name].tensor
        shape = (tensor.experts, tensor.rows // tensor.experts, tensor.columns)
        data = self._quantized(name, type_name, shape)
        resident_type = self._resident.type(name)
        if not as_written and resident_type in _FLOATS:
            threads = self._resident.options.threads
            weights = _core.dequantize(data, type_name, shape=shape, threads=threads)
            data = _core.quantize(weights, resident_type, threads=threads)
            type_name = resident_type
        self._resident.replace(name, type_name, data.reshape(-1).view(np.uint8))

    def _quantized(
        self, name: str, type_name: str, shape: tuple[int, int, int]
    ) -> npt.NDArray[np.uint8]:
        candidate = self._candidates[name]
        rows = np.empty(candidate.tensor.bytes, np.uint8)
        self._source.read(candidate.tensor, 0, rows.data)
        importance = None
        if candidate.importance is not None and self._matrix is not None:
            importance = candidate.importance.values(self._matrix)
        moments = candidate.moments
        rounding = rounding_for(
            self._rounding,
            type_name,
            has_importance=importance is not None,
            has_moments=moments is not None,
        )
        quantized = np.empty(tensor_bytes(type_name, candidate.tensor.shape), np.uint8)
        round_rows(
            rows,
            candidate.tensor.type,
            shape,
            type_name,
            importance,
            rounding,
            quantized,
            self._resident.options.threads,
            None if moments is None else lambda of: self._objectives.of_entry(0, moments.entry, of),
        )
        return quantized
