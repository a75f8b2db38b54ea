"""From probes to predictions, by hand."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from apex.errors import SensitivityError
from apex.sensitivity import (
    Group,
    ModelIdentity,
    Probe,
    Sensitivity,
    TextIdentity,
    losses_of,
    slopes_of,
)
from apex.sensitivity.losses import slope_of

HARSH = Probe("IQ2_S", 0.1, 0.05, 0.003)
MILD = Probe("Q3_K", 0.02, 0.014, 0.004)


def sensitivity_of(probes: Mapping[int, tuple[Probe, ...]], layers: int = 9) -> Sensitivity:
    """A kind in each layer, with the probes of some, and an output without any."""
    groups = [
        Group(f"layer {layer}, value", "value", layer, (f"v{layer}",), probes.get(layer, ()))
        for layer in range(layers)
    ]
    groups.append(Group("output", "output", None, ("o",)))
    errors = {name: {"Q3_K": 0.02, "Q8_0": 1e-4} for group in groups for name in group.tensors}
    model, text = ModelIdentity("", "", 0, "", {}), TextIdentity((), "", 512, 1, 256)
    return Sensitivity(model, text, "F16", "", 0.0, tuple(groups), errors)


def test_a_slope_lies_between_two_probes() -> None:
    for probes in ((HARSH, MILD), (MILD, HARSH)):
        slope = slope_of(probes)
        assert slope.value == pytest.approx((0.05 - 0.014) / (0.1 - 0.02))
        assert slope.error == pytest.approx(0.005 / 0.08)
        assert slope.is_measured


def test_a_slope_of_one_probe() -> None:
    slope = slope_of((HARSH,))
    assert slope.value == pytest.approx(0.5)
    assert slope.error == pytest.approx(0.03)


def test_groups_without_probes_are_taken_from_their_neighbours() -> None:
    steep = Probe("IQ2_S", 0.1, 0.2, 0.01)
    found = slopes_of(sensitivity_of({2: (HARSH,), 6: (steep,)}))
    assert "output" not in found
    values = [found[f"layer {layer}, value"].value for layer in range(9)]
    expected = [0.5, 0.5, 0.5, 0.875, 1.25, 1.625, 2.0, 2.0, 2.0]
    assert values == pytest.approx(expected)
    measured = [found[f"layer {layer}, value"].is_measured for layer in range(9)]
    assert [layer for layer in range(9) if measured[layer]] == [2, 6]


def test_losses_are_slopes_times_errors() -> None:
    losses = losses_of(sensitivity_of({2: (HARSH,)}))
    assert losses["v2"] == pytest.approx({"Q3_K": 0.5 * 0.02, "Q8_0": 0.5e-4})
    assert "o" not in losses  # nothing is known of it


def test_without_any_probe_there_is_nothing_to_predict() -> None:
    with pytest.raises(SensitivityError, match="no measurement"):
        losses_of(sensitivity_of({}))
