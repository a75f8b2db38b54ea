"""Statistics of an importance matrix, by tensor and by layer (llama-imatrix --show-statistics)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from apex.files import ImportanceEntry, ImportanceMatrix

__all__ = ["LayerStatistics", "TensorStatistics", "layer_statistics", "tensor_statistics"]

_LAYER = re.compile(r"blk\.(\d+)\.")
# As in llama-imatrix, a column whose mean square is below this does not count as active.
_INACTIVE = 1e-5


@dataclass(frozen=True)
class TensorStatistics:
    """Of the mean squared activations of a tensor's columns, over all experts that have data.

    Attributes:
        name, layer: of the tensor; None outside of the layers.
        total, minimum, maximum, mean, deviation: of the values.
        active: share of columns whose mean square is above 1e-5.
        entropy: in bits, of the values taken as a distribution.
        relative_entropy: over that of equal values.
        outliers: share of columns more than a standard deviation above the mean (z-score above 1).
        similarity: cosine similarity of the sums with the same tensor's one layer below, or None.
        dominant: (column, share of the total) of the three largest, summed over experts.
        experts, reached: how many matrices there are, and how many have data.
        values: how many values these numbers are of.
    """

    name: str
    layer: int | None
    total: float
    minimum: float
    maximum: float
    mean: float
    deviation: float
    active: float
    entropy: float
    relative_entropy: float
    outliers: float
    similarity: float | None
    dominant: tuple[tuple[int, float], ...]
    experts: int
    reached: int
    values: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class LayerStatistics:
    """Averages over a layer's tensors, weighted by how many values each has."""

    layer: int
    total: float
    outliers: float
    similarity: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def tensor_statistics(matrix: ImportanceMatrix) -> tuple[TensorStatistics, ...]:
    """One for each tensor that has data, in the order of the names."""
    return tuple(
        _statistics(name, entry, matrix.entries)
        for name, entry in sorted(matrix.entries.items())
        if entry.counts.any()
    )


def _statistics(
    name: str, entry: ImportanceEntry, entries: Mapping[str, ImportanceEntry]
) -> TensorStatistics:
    reached = entry.counts > 0
    values = entry.sums[reached].astype(np.float64) / entry.counts[reached, np.newaxis]
    total = float(values.sum())
    mean, deviation = float(values.mean()), float(values.std())
    shares = values[values > 0] / total if total > 0 else np.empty(0)
    entropy = float(-(shares * np.log2(shares)).sum())
    columns = values.sum(axis=0)
    largest = np.argsort(columns)[::-1][:3]
    match = _LAYER.match(name)
    return TensorStatistics(
        name=name,
        layer=int(match[1]) if match else None,
        total=total,
        minimum=float(values.min()),
        maximum=float(values.max()),
        mean=mean,
        deviation=deviation,
        active=float((values > _INACTIVE).mean()),
        entropy=entropy,
        relative_entropy=entropy / np.log2(values.size) if values.size > 1 else 0.0,
        outliers=float(((values - mean) / deviation > 1).mean()) if deviation > 0 else 0.0,
        similarity=_similarity(name, entry, entries),
        dominant=tuple(
            (int(column), float(columns[column] / total) if total > 0 else 0.0)
            for column in largest
        ),
        experts=len(entry.counts),
        reached=int(reached.sum()),
        values=values.size,
    )


def _similarity(
    name: str, entry: ImportanceEntry, entries: Mapping[str, ImportanceEntry]
) -> float | None:
    match = _LAYER.match(name)
    if match is None:
        return None
    below = entries.get(f"blk.{int(match[1]) - 1}.{name[match.end() :]}")
    if below is None or below.size != entry.size:
        return None
    a, b = (part.sums.astype(np.float64).reshape(-1) for part in (entry, below))
    lengths = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / lengths) if lengths > 0 else None


def layer_statistics(tensors: Sequence[TensorStatistics]) -> tuple[LayerStatistics, ...]:
    """One for each layer, in order."""
    layers: dict[int, list[TensorStatistics]] = {}
    for tensor in tensors:
        if tensor.layer is not None:
            layers.setdefault(tensor.layer, []).append(tensor)
    result = []
    for layer, members in sorted(layers.items()):
        weights = np.array([member.values for member in members], np.float64)
        weights /= weights.sum()
        result.append(
            LayerStatistics(
                layer,
                float(weights @ [member.total for member in members]),
                float(weights @ [member.outliers for member in members]),
                float(weights @ [member.similarity or 0.0 for member in members]),
            )
        )
    return tuple(result)
