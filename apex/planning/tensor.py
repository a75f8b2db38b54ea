"""What becomes of one tensor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from apex.planning.importance import ImportanceReference
from apex.policy import Role
from apex.sources import Tensor
from apex.types import TYPES, row_bytes, tensor_bytes

__all__ = [
    "REFERENCE",
    "ROUNDINGS",
    "ROUNDING_KEY",
    "MomentsReference",
    "PlannedTensor",
    "rounding_of",
]

#: Rounding with llama.cpp's bytes.
REFERENCE = "reference"
#: How weights become levels: as llama.cpp does; with its levels, but scales by which outputs keep
#: their size; so that errors of columns whose inputs move together cancel.
ROUNDINGS = (REFERENCE, "unshrunk", "compensated")
#: Under which a file names its rounding, where it is not the reference.
ROUNDING_KEY = "quantize.rounding"


@dataclass(frozen=True)
class MomentsReference:
    """Where the second moments of a tensor's inputs come from.

    Attributes:
        entry: name of the entry in the second-moment file that has the sums.
        few: experts with few rows.
    """

    entry: str
    few: tuple[int, ...] = ()


@dataclass(frozen=True)
class PlannedTensor:
    """What becomes of one tensor.

    Attributes:
        source: the tensor in the model.
        type: the ggml type that is written.
        role: what the tensor does.
        layer: its layer, or None.
        zone: its place in the recipe's gradient, or "".
        decided_by: "tier", "file type", "override" (a rule, or --output-tensor-type
            and --token-embedding-type), "mapping" (a type given by name),
            "llama.cpp" (kept by its rules) or "copy".
        reason: one phrase for people.
        wanted: the type that was asked for; other than ``type`` where the row length forced a
            fallback.
        importance: where its importance comes from, or None.
        file: number of the output's file that holds it.
        offset: where its data starts in that file, in bytes.
        rounding: how its weights become levels, one of ``ROUNDINGS``.
        moments: where the second moments come from that it is compensated with, or None.
    """

    source: Tensor
    type: str
    role: Role
    layer: int | None
    zone: str
    decided_by: str
    reason: str
    wanted: str
    importance: ImportanceReference | None = None
    file: int = 0
    offset: int = 0
    rounding: str = REFERENCE
    moments: MomentsReference | None = None

    @property
    def name(self) -> str:
        """The tensor's name."""
        return self.source.name

    @property
    def bytes(self) -> int:
        """Size of its data in the output, without padding."""
        return tensor_bytes(self.type, self.source.shape)

    @property
    def row_bytes(self) -> int:
        """Size of one row in the output."""
        return row_bytes(self.type, self.source.columns)

    @property
    def is_fallback(self) -> bool:
        """Whether the row length forced another type than the one asked for."""
        return self.wanted != self.type

    @property
    def fallback_bytes(self) -> int:
        """Bytes that the fallback costs over the type asked for, as if its blocks fitted."""
        facts = TYPES[self.wanted]
        return self.bytes - self.source.weights * facts.block_bytes // facts.block_weights

    @property
    def is_copied(self) -> bool:
        """Whether the data is written as it is."""
        return self.type == self.source.type

    def to_dict(self) -> dict[str, Any]:
        """The tensor as data for JSON, sizes in bytes."""
        return {
            "name": self.name,
            "shape": list(self.source.shape),
            "source_type": self.source.type,
            "shard": self.source.shard,
            "type": self.type,
            "wanted": self.wanted,
            "role": self.role.value,
            "layer": self.layer,
            "zone": self.zone,
            "decided_by": self.decided_by,
            "reason": self.reason,
            "source_bytes": self.source.bytes,
            "bytes": self.bytes,
            "file": self.file,
            "offset": self.offset,
            "rounding": self.rounding,
            "moments": None if self.moments is None else self.moments.entry,
            "few_rows": [] if self.moments is None else list(self.moments.few),
            "importance": None if self.importance is None else self.importance.entry,
            "unreached": [] if self.importance is None else list(self.importance.unreached),
        }


def rounding_of(tensors: Iterable[PlannedTensor]) -> str:
    """How the weights of tensors become levels; of several ways, the last of ``ROUNDINGS``."""
    return max((tensor.rounding for tensor in tensors), key=ROUNDINGS.index, default=REFERENCE)
