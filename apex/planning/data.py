"""The plan as pure data: what will be written where, why, and how large it is."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from apex.planning.options import MetadataValue
from apex.planning.tensor import REFERENCE, PlannedTensor, rounding_of
from apex.policy import Role
from apex.sources import SourceReference

__all__ = [
    "PLAN_FORMAT",
    "PLAN_VERSION",
    "MatrixReference",
    "Plan",
    "PlannedFile",
    "RoleTotal",
]

PLAN_FORMAT = "apex plan"
PLAN_VERSION = 1


@dataclass(frozen=True)
class MatrixReference:
    """How a plan names its importance matrix, or its second moments.

    Attributes:
        path: of the file.
        digest: SHA-256 of the file, of second moments that of their counts; empty for a matrix that
            is only in memory.
    """

    path: str
    digest: str


@dataclass(frozen=True)
class PlannedFile:
    """One output file. Its header is made anew from the source's metadata when it is written.

    Attributes:
        keys: (key, GGUF type, value) that are set on the source's metadata, in order.
        alignment: of the tensors' data.
        header_bytes: size of the header.
        header_digest: SHA-256 of the header.
        bytes: size of the file.
    """

    keys: tuple[tuple[str, str, MetadataValue], ...]
    alignment: int
    header_bytes: int
    header_digest: str
    bytes: int


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
class Plan:
    """A complete answer to what will be written; nothing is left to decide.

    Pure data: it can be pickled, written as JSON (``to_dict``) and carried out elsewhere.

    Attributes:
        model: the source.
        tier: name of the tier or recipe, or None.
        file_type: the llama.cpp file type that the output claims; the base of a tier.
        files: the output's files; more than one for shards.
        tensors: all tensors, in the order of the output.
        imatrix: the importance matrix, or None.
        notes: what the user should know, one sentence each.
        inputs: the local files that it was made from, which no output may replace: those of the
            source, the importance matrix, a recipe, a file of rules.
        is_verbatim: the input is copied byte for byte (a projector).
        is_sizes_only: the importance was not checked; such a plan cannot be carried out.
        second_moments: the second-moment file that rows are rounded with, or None.
    """

    model: SourceReference
    tier: str | None
    file_type: str
    files: tuple[PlannedFile, ...]
    tensors: tuple[PlannedTensor, ...]
    imatrix: MatrixReference | None
    notes: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    is_verbatim: bool = False
    is_sizes_only: bool = False
    second_moments: MatrixReference | None = None

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
        return sum(file.bytes for file in self.files)

    @property
    def bits_per_weight(self) -> float:
        """Average over all weights."""
        return 8 * self.tensor_bytes / self.weights

    @property
    def rounding(self) -> str:
        """How the weights become levels; of several ways, the last of ``ROUNDINGS``."""
        return rounding_of(self.tensors)

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

    @property
    def few_rows_experts(self) -> dict[str, tuple[int, ...]]:
        """By tensor name, the experts of which the second moments have few rows."""
        return {
            tensor.name: tensor.moments.few
            for tensor in self.tensors
            if tensor.moments is not None and tensor.moments.few
        }

    def by_role(self) -> tuple[RoleTotal, ...]:
        """Totals per role, in the order of ``Role``, over the tensors that have it."""
        return tuple(
            RoleTotal(
                role,
                len(tensors),
                sum(tensor.source.weights for tensor in tensors),
                sum(tensor.source.bytes for tensor in tensors),
                sum(tensor.bytes for tensor in tensors),
                _by_weight(tensors),
            )
            for role in Role
            if (tensors := [tensor for tensor in self.tensors if tensor.role is role])
        )

    def fingerprint(self) -> str:
        """SHA-256 over all that decides the output's bytes.

        Plans with the same fingerprint write the same files, wherever they are carried out by the
        same version of apex.
        """
        decisive: list[object] = [
            self.model.digest,
            self.imatrix.digest if self.imatrix else "",
            self.is_verbatim,
            [[file.header_digest, file.bytes] for file in self.files],
            [
                [
                    tensor.name,
                    tensor.type,
                    tensor.file,
                    tensor.offset,
                    tensor.importance.entry if tensor.importance else "",
                ]
                for tensor in self.tensors
            ],
        ]
        if self.rounding != REFERENCE:
            moments = self.second_moments.digest if self.second_moments else ""
            decisive += [moments, [tensor.rounding for tensor in self.tensors]]
        return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()

    def tensor_type_file(self) -> str:
        """The plan as a tensor-type file with which llama-quantize makes the same types.

        To be used with the plan's ``file_type``. Tensors that llama.cpp keeps by itself are left
        out.
        """
        lines = [
            f"^{re.escape(tensor.name).lower()}$={tensor.wanted.lower()}"
            for tensor in self.tensors
            if tensor.decided_by in ("tier", "file type", "override", "mapping")
        ]
        return "\n".join([*lines, ""])

    def to_dict(self) -> dict[str, Any]:
        """The plan as data for JSON, sizes in bytes; with sums for reading."""
        return {
            "format": PLAN_FORMAT,
            "version": PLAN_VERSION,
            "fingerprint": self.fingerprint(),
            "model": self.model.location,
            "source": self.model.to_dict(),
            "architecture": self.model.architecture,
            "tier": self.tier,
            "file_type": self.file_type,
            "imatrix": None if self.imatrix is None else self.imatrix.path,
            "imatrix_digest": None if self.imatrix is None else self.imatrix.digest,
            "rounding": self.rounding,
            "second_moments": None if self.second_moments is None else vars(self.second_moments),
            "weights": self.weights,
            "source_bytes": self.model.bytes,
            "tensor_bytes": self.tensor_bytes,
            "file_bytes": self.file_bytes,
            "bits_per_weight": self.bits_per_weight,
            "is_verbatim": self.is_verbatim,
            "is_sizes_only": self.is_sizes_only,
            "notes": list(self.notes),
            "inputs": list(self.inputs),
            "files": [
                {
                    "keys": [list(key) for key in file.keys],
                    "alignment": file.alignment,
                    "header_bytes": file.header_bytes,
                    "header_digest": file.header_digest,
                    "bytes": file.bytes,
                }
                for file in self.files
            ],
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
            "few_rows_experts": {
                name: list(experts) for name, experts in self.few_rows_experts.items()
            },
            "tensors": [tensor.to_dict() for tensor in self.tensors],
        }


def _by_weight(tensors: Iterable[PlannedTensor]) -> tuple[str, ...]:
    """The types of the tensors, the one with the most weights first."""
    weights: Counter[str] = Counter()
    for tensor in tensors:
        weights[tensor.type] += tensor.source.weights
    return tuple(name for name, _ in weights.most_common())
