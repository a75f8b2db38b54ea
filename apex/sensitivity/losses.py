"""From probes to predictions: what each tensor costs as each type, in KL divergence."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from apex.errors import SensitivityError
from apex.sensitivity.data import Group, Probe, Sensitivity

__all__ = ["Slope", "floor_of", "losses_of", "slopes_of"]

# A slope is at least this share of what the harshest probe alone would say.
_LEAST_SHARE = 0.2


@dataclass(frozen=True)
class Slope:
    """What a unit of a group's relative error costs.

    Attributes:
        value: KL divergence in nats for each unit of distance.
        error: its standard error.
        is_measured: False where it is taken from the same kind in other layers.
    """

    value: float
    error: float
    is_measured: bool = True


def floor_of(sensitivity: Sensitivity) -> float:
    """KL divergence in nats that any change of a group costs, however small: flips of routing.

    The median over the groups of what their mildest probe costs beyond its slope.
    """
    rests = [
        group.probes[-1].kl - slope.value * group.probes[-1].distance
        for group, slope in _measured(sensitivity)
        if len(group.probes) > 1
    ]
    return max(0.0, median(rests)) if rests else 0.0


def _measured(sensitivity: Sensitivity) -> list[tuple[Group, Slope]]:
    return [(group, slope_of(group.probes)) for group in sensitivity.groups if group.probes]


def slope_of(probes: Sequence[Probe]) -> Slope:
    """Between the harshest and the mildest probe, which leaves out what any change costs."""
    ordered = sorted(probes, key=lambda probe: probe.distance)
    mild, harsh = ordered[0], ordered[-1]
    if harsh.distance <= 0:
        return Slope(0.0, 0.0)
    least = _LEAST_SHARE * max(harsh.kl, 0.0) / harsh.distance
    width = harsh.distance - mild.distance
    if width <= 0:
        return Slope(max(harsh.kl, 0.0) / harsh.distance, harsh.error / harsh.distance)
    value = (harsh.kl - mild.kl) / width
    return Slope(max(value, least), math.hypot(harsh.error, mild.error) / width)


def slopes_of(sensitivity: Sensitivity) -> dict[str, Slope]:
    """By group name; groups without probes get the mean of the nearest layers of their kind.

    Groups of a kind without any probe are left out: nothing is known of them.
    """
    slopes = {group.name: slope for group, slope in _measured(sensitivity)}
    by_kind: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for group in sensitivity.groups:
        if group.name in slopes and group.layer is not None:
            by_kind[group.kind].append((group.layer, slopes[group.name].value))
    for group in sensitivity.groups:
        if group.name not in slopes and by_kind[group.kind] and group.layer is not None:
            slopes[group.name] = _from_neighbours(group.layer, by_kind[group.kind])
    return slopes


def _from_neighbours(layer: int, known: Sequence[tuple[int, float]]) -> Slope:
    """Interpolated between the nearest layers on both sides."""
    below = max((item for item in known if item[0] <= layer), default=None)
    above = min((item for item in known if item[0] >= layer), default=None)
    if below is None or above is None:
        only = below or above
        assert only is not None
        return Slope(only[1], only[1], is_measured=False)
    width = above[0] - below[0]
    share = (layer - below[0]) / width if width else 0.0
    value = below[1] + share * (above[1] - below[1])
    return Slope(value, value, is_measured=False)


def losses_of(sensitivity: Sensitivity) -> Mapping[str, Mapping[str, float]]:
    """By tensor and type, the predicted KL divergence in nats; of tensors in measured groups.

    Raises SensitivityError where no group was measured.
    """
    slopes = slopes_of(sensitivity)
    if not slopes:
        raise SensitivityError(
            "The sensitivity has no measurement yet.", "let apex measure run longer"
        )
    return {
        name: {
            type_name: slopes[group.name].value * error
            for type_name, error in sensitivity.errors[name].items()
        }
        for group in sensitivity.groups
        if group.name in slopes
        for name in group.tensors
    }
