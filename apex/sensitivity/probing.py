"""Makes probes: a group of a resident model as another type, and how far that takes the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.files import ImportanceMatrix
from apex.inference import Divergences, ResidentModel
from apex.sensitivity.data import Group, Probe
from apex.sensitivity.errors import CANDIDATES, Candidate
from apex.sources import Source

__all__ = ["Prober", "types_at"]

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
    order = [name for name in CANDIDATES if name in _all_types(tensors, candidates)]
    start = CANDIDATES.index(level)
    at_most = [name for name in reversed(order) if CANDIDATES.index(name) <= start] or order[-1:]
    types: dict[str, str] = {}
    for name in at_most:
        types = {tensor: _fitting(candidates[tensor], name) for tensor in tensors}
        distance = distance_of(types, tables)
        if all(_are_apart(distance, probe.distance) for probe in known):
            break
    return types


def distance_of(types: Mapping[str, str], tables: Tables) -> float:
    """The sum of the tensors' relative errors."""
    return math.fsum(tables[name][type_name] for name, type_name in types.items())


def _all_types(tensors: Sequence[str], candidates: Mapping[str, Candidate]) -> set[str]:
    return {name for tensor in tensors for name in candidates[tensor].types}


def _are_apart(first: float, second: float) -> bool:
    return min(first, second) <= _APART * max(first, second)


def _fitting(candidate: Candidate, level: str) -> str:
    """The level's type, or the next larger candidate."""
    place = CANDIDATES.index(level)
    fitting = [name for name in candidate.types if CANDIDATES.index(name) <= place]
    return fitting[-1] if fitting else candidate.types[-1]


class Prober:
    """Changes a resident model as asked, measures, and gives its weights back."""

    def __init__(
        self,
        source: Source,
        matrix: ImportanceMatrix | None,
        candidates: Mapping[str, Candidate],
        resident: ResidentModel,
        divergences: Divergences,
    ) -> None:
        """source: the model whose weights are quantized; the resident one may be another file."""
        self._source = source
        self._matrix = matrix
        self._candidates = candidates
        self._resident = resident
        self._divergences = divergences
        self._now: dict[str, str] = {}

    def probe(self, group: Group, level: str, tables: Tables) -> Probe:
        """Measure a group at a level. Raises ModelFileError, RunError, DataError."""
        types = types_at(group.tensors, level, self._candidates, tables, group.probes)
        kl, error = self.divergence(types)
        names = set(types.values())
        label = level if level in names else min(names, key=CANDIDATES.index)
        return Probe(label, distance_of(types, tables), kl, error)

    def divergence(self, types: Mapping[str, str]) -> tuple[float, float]:
        """Mean KL divergence of the model with these tensors so, in nats, and its standard error.

        The weights alone are rounded, where the resident model is not quantized itself. The error
        is that of a mean over chunks; 0 where there is only one.
        """
        try:
            for name, type_name in types.items():
                self._change(name, type_name, as_written=False)
            values = self._divergences.measure().mean(axis=1)
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
        quantized: npt.NDArray[np.uint8] = _core.quantize(
            rows,
            type_name,
            importance,
            src_type=candidate.tensor.type,
            shape=shape,
            threads=self._resident.options.threads,
        )
        return quantized.reshape(-1)
