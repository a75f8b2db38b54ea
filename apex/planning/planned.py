"""The plan as data: what will be written, why, and how large it is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from apex import _core
from apex.files import ImportanceMatrix
from apex.planning.importance import Importance
from apex.policy import Role
from apex.sources import ModelFile, Tensor

__all__ = ["Plan", "PlannedFile", "PlannedTensor", "RoleTotal"]


@dataclass(frozen=True)
class PlannedTensor:
    """What becomes of one tensor.

    Attributes:
        source: the tensor in the model.
        type: the ggml type that is written.
        bytes: the size of its data in the output, without padding.
        role: what the tensor does.
        layer: its layer, or None.
        zone: its place in the recipe's gradient, or "".
        decided_by: "tier", "file type", "override", "llama.cpp" (kept by its rules) or "copy".
        reason: one phrase for people.
        wanted: the type that was asked for; other than ``type`` where the row length forced a
            fallback.
        importance: where its importance comes from, or None.
    """

    source: Tensor
    type: str
    bytes: int
    role: Role
    layer: int | None
    zone: str
    decided_by: str
    reason: str
    wanted: str
    importance: Importance | None = None

    @property
    def name(self) -> str:
        """The tensor's name."""
        return self.source.name

    @property
    def is_fallback(self) -> bool:
        """Whether the row length forced another type than the one asked for."""
        return self.wanted != self.type

    @property
    def fallback_bytes(self) -> int:
        """Bytes that the fallback costs over the type asked for, as if its blocks fitted."""
        if not self.is_fallback:
            return 0
        facts = TENSOR_TYPES[self.wanted]
        return self.bytes - self.source.weights * facts.block_bytes // facts.block_weights

    @property
    def is_copied(self) -> bool:
        """Whether the data is written as it is."""
        return self.type == self.source.type


TENSOR_TYPES = {facts.name: facts for facts in _core.tensor_types()}


@dataclass(frozen=True)
class RoleTotal:
    """Sums over the tensors of one role."""

    role: Role
    tensors: int
    weights: int
    source_bytes: int
    bytes: int
    types: tuple[str, ...]

    @property
    def bits_per_weight(self) -> float:
        """Average over the role's weights."""
        return 8 * self.bytes / self.weights


@dataclass(frozen=True)
class PlannedFile:
    """One output file: its header, serialised, and its tensors in order."""

    header: bytes = field(repr=False)
    alignment: int
    tensors: tuple[PlannedTensor, ...]

    @property
    def bytes(self) -> int:
        """Size of the file."""
        padded = (-(-tensor.bytes // self.alignment) * self.alignment for tensor in self.tensors)
        return len(self.header) + sum(padded)


@dataclass(frozen=True)
class Plan:
    """A complete answer to what will be written; nothing is left to decide.

    Attributes:
        model: the input.
        tier: name of the tier or recipe, or None.
        file_type: the llama.cpp file type that the output claims; the base of a tier.
        files: the output's files; more than one for shards.
        imatrix: the importance matrix, or None.
        notes: what the user should know, one sentence each.
        is_verbatim: the input is copied byte for byte (a projector).
        is_sizes_only: the importance was not checked; such a plan cannot be carried out.
    """

    model: ModelFile
    tier: str | None
    file_type: str
    files: tuple[PlannedFile, ...]
    imatrix: ImportanceMatrix | None
    notes: tuple[str, ...]
    is_verbatim: bool = False
    is_sizes_only: bool = False

    @property
    def tensors(self) -> tuple[PlannedTensor, ...]:
        """All tensors, in the order of the output."""
        return tuple(tensor for file in self.files for tensor in file.tensors)

    @property
    def weights(self) -> int:
        """Number of weights."""
        return self.model.weights

    @property
    def tensor_bytes(self) -> int:
        """Size of all tensors' data in the output, as llama-quantize counts it."""
        return sum(tensor.bytes for tensor in self.tensors)

    @property
    def file_bytes(self) -> int:
        """Size of the output, all files together."""
        if self.is_verbatim:
            return sum(file.stat().st_size for file in self.model.files)
        return sum(file.bytes for file in self.files)

    @property
    def bits_per_weight(self) -> float:
        """Average over all weights."""
        return 8 * self.tensor_bytes / self.weights

    @property
    def fallbacks(self) -> tuple[PlannedTensor, ...]:
        """The tensors that get another type than asked for."""
        return tuple(tensor for tensor in self.tensors if tensor.is_fallback)

    @property
    def unreached_experts(self) -> dict[str, tuple[int, ...]]:
        """By tensor name, the experts that the calibration never reached."""
        return {
            tensor.name: tensor.importance.unreached
            for tensor in self.tensors
            if tensor.importance is not None and tensor.importance.unreached
        }

    def by_role(self) -> tuple[RoleTotal, ...]:
        """Totals per role, in the order of ``Role``, over the tensors that have it."""
        totals = []
        for role in Role:
            tensors = [tensor for tensor in self.tensors if tensor.role is role]
            if tensors:
                totals.append(
                    RoleTotal(
                        role,
                        len(tensors),
                        sum(tensor.source.weights for tensor in tensors),
                        sum(tensor.source.bytes for tensor in tensors),
                        sum(tensor.bytes for tensor in tensors),
                        _by_weight(tensors),
                    )
                )
        return tuple(totals)

    def tensor_type_file(self) -> str:
        """The plan as a tensor-type file with which llama-quantize makes the same types.

        To be used with the plan's ``file_type``. Tensors that llama.cpp keeps by itself are left
        out.
        """
        lines = [
            f"^{re.escape(tensor.name).lower()}$={tensor.wanted.lower()}"
            for tensor in self.tensors
            if tensor.decided_by in ("tier", "file type", "override")
        ]
        return "\n".join([*lines, ""])

    def to_dict(self) -> dict[str, Any]:
        """The plan as data for JSON: sizes in bytes."""
        return {
            "model": str(self.model.path),
            "architecture": self.model.architecture,
            "tier": self.tier,
            "file_type": self.file_type,
            "imatrix": None if self.imatrix is None else self.imatrix.path,
            "weights": self.weights,
            "source_bytes": self.model.bytes,
            "tensor_bytes": self.tensor_bytes,
            "file_bytes": self.file_bytes,
            "bits_per_weight": self.bits_per_weight,
            "files": len(self.files),
            "is_verbatim": self.is_verbatim,
            "notes": list(self.notes),
            "roles": [
                {
                    "role": total.role.value,
                    "tensors": total.tensors,
                    "weights": total.weights,
                    "source_bytes": total.source_bytes,
                    "bytes": total.bytes,
                    "bits_per_weight": total.bits_per_weight,
                    "types": list(total.types),
                }
                for total in self.by_role()
            ],
            "unreached_experts": {
                name: list(experts) for name, experts in self.unreached_experts.items()
            },
            "tensors": [
                {
                    "name": tensor.name,
                    "shape": list(tensor.source.shape),
                    "source_type": tensor.source.type,
                    "type": tensor.type,
                    "wanted": tensor.wanted,
                    "role": tensor.role.value,
                    "layer": tensor.layer,
                    "zone": tensor.zone,
                    "decided_by": tensor.decided_by,
                    "reason": tensor.reason,
                    "source_bytes": tensor.source.bytes,
                    "bytes": tensor.bytes,
                    "importance": None if tensor.importance is None else tensor.importance.entry,
                }
                for tensor in self.tensors
            ],
        }


def _by_weight(tensors: Iterable[PlannedTensor]) -> tuple[str, ...]:
    """The types of the tensors, the one with the most weights first."""
    weights: Counter[str] = Counter()
    for tensor in tensors:
        weights[tensor.type] += tensor.source.weights
    return tuple(name for name, _ in weights.most_common())
