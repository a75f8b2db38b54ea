"""What comparing a quantized model with its source gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from apex import _core
from apex.planning import REFERENCE
from apex.policy import Role

__all__ = ["RoleError", "Sums", "TensorError", "VerifyReport", "root"]


@dataclass(frozen=True)
class TensorError:
    """How far one tensor is from its source.

    All errors are relative: 0 is equal, 1 is as far off as if all weights had become zero.

    Attributes:
        name, role, type: of the quantized tensor.
        weights: number of weights.
        rmse: root of the mean squared error over the root of the source's mean square.
        weighted_rmse: the same with every column weighted by its importance; None without one.
        output_rmse: how far the outputs are off over the text that second moments were collected
            from: the root of Σ tr(E S Eᵀ) over the root of Σ tr(W S Wᵀ), the sums over experts, W
            the source's weights, E their errors, S the second moments. An expert counts as much
            as it is used. None without second moments.
        worst_block: the same for the worst run of 256 weights of a row, over the root of the mean
            square of the whole tensor.
        worst_row, worst_column: where that run starts; rows are counted over all experts.
        bad_values: number of NaN or infinite weights; they are left out of the errors.
    """

    name: str
    role: Role
    type: str
    weights: int
    rmse: float
    weighted_rmse: float | None
    output_rmse: float | None
    worst_block: float
    worst_row: int
    worst_column: int
    bad_values: int
    sums: Sums


@dataclass
class Sums:
    """What the errors are made of, to be added over tensors."""

    error: float = 0.0
    reference: float = 0.0
    weighted_error: float = 0.0
    weighted_reference: float = 0.0
    bad_values: int = 0
    output_error: float = 0.0
    output_reference: float = 0.0

    def add(self, other: Sums | _core.Comparison) -> None:
        """Add what was summed up elsewhere; a comparison of weights knows nothing of outputs."""
        self.error += other.error
        self.reference += other.reference
        self.weighted_error += other.weighted_error
        self.weighted_reference += other.weighted_reference
        self.bad_values += other.bad_values
        if isinstance(other, Sums):
            self.output_error += other.output_error
            self.output_reference += other.output_reference


@dataclass(frozen=True)
class RoleError:
    """The errors of all tensors of a role together, and its worst tensor."""

    role: Role
    tensors: int
    weights: int
    rmse: float
    weighted_rmse: float | None
    output_rmse: float | None
    worst_tensor: str
    worst_block: float
    bad_values: int


@dataclass(frozen=True)
class VerifyReport:
    """What ``verify`` found.

    Attributes:
        tensors: every tensor that was compared, in the order of the quantized file.
        notes: what was left out, one sentence each.
        rounding: how weights became levels, as the quantized file says; "reference" where it says
            nothing.
    """

    tensors: tuple[TensorError, ...]
    notes: tuple[str, ...]
    rounding: str = REFERENCE

    @property
    def bad_values(self) -> int:
        """NaN or infinite weights in the quantized file."""
        return sum(tensor.bad_values for tensor in self.tensors)

    @property
    def output_rmse(self) -> float | None:
        """``TensorError.output_rmse`` of all tensors together; None without second moments."""
        return _output_rmse(self.tensors)

    def by_role(self) -> tuple[RoleError, ...]:
        """Per role, in the order of ``Role``."""
        return tuple(
            _role_error(role, tensors)
            for role in Role
            if (tensors := [tensor for tensor in self.tensors if tensor.role is role])
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as data for JSON."""
        return {
            "bad_values": self.bad_values,
            "rounding": self.rounding,
            "output_rmse": self.output_rmse,
            "notes": list(self.notes),
            "roles": [
                {
                    "role": role.role.value,
                    "tensors": role.tensors,
                    "weights": role.weights,
                    "rmse": role.rmse,
                    "weighted_rmse": role.weighted_rmse,
                    "output_rmse": role.output_rmse,
                    "worst_tensor": role.worst_tensor,
                    "worst_block": role.worst_block,
                    "bad_values": role.bad_values,
                }
                for role in self.by_role()
            ],
            "tensors": [
                {
                    "name": tensor.name,
                    "role": tensor.role.value,
                    "type": tensor.type,
                    "weights": tensor.weights,
                    "rmse": tensor.rmse,
                    "weighted_rmse": tensor.weighted_rmse,
                    "output_rmse": tensor.output_rmse,
                    "worst_block": tensor.worst_block,
                    "worst_row": tensor.worst_row,
                    "worst_column": tensor.worst_column,
                    "bad_values": tensor.bad_values,
                }
                for tensor in self.tensors
            ],
        }


def _role_error(role: Role, tensors: Sequence[TensorError]) -> RoleError:
    sums = Sums()
    for tensor in tensors:
        sums.add(tensor.sums)
    worst = max(tensors, key=lambda tensor: tensor.worst_block)
    has_importance = any(tensor.weighted_rmse is not None for tensor in tensors)
    return RoleError(
        role,
        len(tensors),
        sum(tensor.weights for tensor in tensors),
        root(sums.error, sums.reference),
        root(sums.weighted_error, sums.weighted_reference) if has_importance else None,
        _output_rmse(tensors),
        worst.name,
        worst.worst_block,
        sums.bad_values,
    )


def _output_rmse(tensors: Sequence[TensorError]) -> float | None:
    known = [tensor.sums for tensor in tensors if tensor.output_rmse is not None]
    if not known:
        return None
    error = sum(sums.output_error for sums in known)
    return root(error, sum(sums.output_reference for sums in known))


def root(error: float, reference: float) -> float:
    """The root of a sum of squared errors over another sum of squares; infinite over nothing."""
    if error == 0:
        return 0.0
    return math.sqrt(error / reference) if reference > 0 else math.inf
