"""What the groups of a model's tensors cost when they are quantized, as it was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from apex.planning import REFERENCE

__all__ = ["Anchor", "Group", "ModelIdentity", "Probe", "Sensitivity", "TextIdentity"]


@dataclass(frozen=True)
class ModelIdentity:
    """Which model was measured, whatever file it is in.

    Attributes:
        name: of the file that was measured, for people.
        architecture: general.architecture.
        weights: number of weights.
        tensors: SHA-256 over the names and shapes of all tensors.
        samples: by tensor name, the sum of the squares of its first row: tells models of the same
            shape apart. An F16, BF16 or Q8_0 file of the same model has nearly the same.
    """

    name: str
    architecture: str
    weights: int
    tensors: str
    samples: Mapping[str, float]


@dataclass(frozen=True)
class TextIdentity:
    """Over what the model ran.

    Attributes:
        names: of the texts.
        digest: SHA-256 over the tokens of all chunks.
        context_length: tokens of a chunk.
        chunks: how many chunks a probe ran over.
        positions: how many positions of them were compared.
    """

    names: tuple[str, ...]
    digest: str
    context_length: int
    chunks: int
    positions: int


@dataclass(frozen=True)
class Probe:
    """One measurement: a group as this type, everything else as in the model.

    Attributes:
        type: what the group's tensors were quantized to; a tensor whose rows do not fit it got the
            next larger type that they fit.
        distance: the sum over the group's tensors of their relative squared error.
        kl: mean KL divergence from the unperturbed model, in nats.
        error: its standard error over chunks; 0 where there was only one.
    """

    type: str
    distance: float
    kl: float
    error: float


@dataclass(frozen=True)
class Group:
    """Tensors of one layer that do the same, and what was measured of them.

    Attributes:
        name: for people, such as "layer 3, down experts".
        kind: what they do, such as "down experts".
        layer: theirs, or None.
        tensors: their names.
        probes: the measurements, from the harshest; empty where none was made.
    """

    name: str
    kind: str
    layer: int | None
    tensors: tuple[str, ...]
    probes: tuple[Probe, ...] = ()


@dataclass(frozen=True)
class Anchor:
    """A choice of types for the whole model, predicted and measured.

    Attributes:
        name: for people, such as "4.5 bits per weight".
        loss: the sum of the predicted losses of its tensors, in nats.
        kl: mean KL divergence that was measured of it as a file would run, in nats.
        error: its standard error over chunks.
    """

    name: str
    loss: float
    kl: float
    error: float


@dataclass(frozen=True)
class Sensitivity:
    """What quantizing each part of a model costs.

    Attributes:
        model: which model.
        text: over what it ran.
        resident_type: of the weights that ran, such as F16.
        imatrix: SHA-256 of the importance matrix that the tensors were quantized with, or "".
        floor: KL divergence that any perturbation costs, however small, in nats.
        groups: all tensors that can be quantized, each in one group.
        errors: by tensor name and type, the relative squared error of its weights, weighted by
            importance and by how often each expert was chosen, or of its outputs where it is
            compensated: 0 is equal, 1 is as far off as zeros would be.
        settings: how it was measured, for people.
        is_complete: whether every group has all its probes.
        anchors: whole choices of types that were measured, to correct predictions by.
        rounding: with which the tensors were quantized.
        second_moments: digest of the second moments that they were compensated with, or "".
    """

    model: ModelIdentity
    text: TextIdentity
    resident_type: str
    imatrix: str
    floor: float
    groups: tuple[Group, ...]
    errors: Mapping[str, Mapping[str, float]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    is_complete: bool = True
    anchors: tuple[Anchor, ...] = ()
    rounding: str = REFERENCE
    second_moments: str = ""

    @cached_property
    def group_of(self) -> dict[str, Group]:
        """By tensor name, its group."""
        return {name: group for group in self.groups for name in group.tensors}
