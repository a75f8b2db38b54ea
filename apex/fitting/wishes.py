"""What a fit is asked for, and what it may choose from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from apex.errors import UsageError
from apex.inference import RunOptions
from apex.policy import Role
from apex.types import TYPES

__all__ = ["FIT_TIERS", "FORMATS", "Constraints", "Wish"]

#: By the name of a fitted tier, the tier whose size it has.
FIT_TIERS = {
    "fit-quality": "i-quality",
    "fit-compact": "i-compact",
    "fit-mini": "mini",
    "fit-nano": "nano",
}

_LEGACY = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
_K = ("Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K")
_IQ4 = ("IQ4_NL", "IQ4_XS")
#: By the word for it, the types that may be chosen; None for all.
FORMATS: Mapping[str, tuple[str, ...] | None] = {
    "k": _LEGACY + _K,
    "k,iq4": _LEGACY + _K + _IQ4,
    "all": None,
}


@dataclass(frozen=True)
class Wish:
    """How large or how good the file is to be: exactly one of these.

    Attributes:
        size: bytes of the file, all shards together.
        bits_per_weight: of all tensors together.
        like: a tier or file type, whose size it is to have.
        kl: predicted KL divergence in nats that it may have at most.
        vram: bytes of GPU memory into which weights, cache and buffers must fit.
        run: the context that must fit beside the weights, with ``vram``.
        gpu_layers: as in RunOptions, with ``vram``.
        experts_on_cpu: routed experts stay in the host's memory, with ``vram``.
    """

    size: int | None = None
    bits_per_weight: float | None = None
    like: str | None = None
    kl: float | None = None
    vram: int | None = None
    run: RunOptions = field(default_factory=RunOptions)
    gpu_layers: int = -1
    experts_on_cpu: bool = False

    def __post_init__(self) -> None:
        goals = (self.size, self.bits_per_weight, self.like, self.kl, self.vram)
        given = [goal for goal in goals if goal is not None]
        is_size_on_gpu = len(given) == 2 and self.vram is not None and self.size is not None
        if len(given) != 1 and not is_size_on_gpu:
            raise UsageError(
                "The size or the quality that is wanted is missing."
                if not given
                else "The file can be fitted to one thing only.",
                "give one of --size, --bpw, --like, --kl and --vram, or --size beside --vram",
            )
        for what, value in (
            ("size", self.size),
            ("bits per weight", self.bits_per_weight),
            ("KL divergence", self.kl),
            ("GPU memory", self.vram),
        ):
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"The {what} must be more than 0.", "as in --size 16GiB")

    @property
    def is_open(self) -> bool:
        """Whether the size of the file is not given."""
        return self.size is None and self.bits_per_weight is None and self.like is None


@dataclass(frozen=True)
class Constraints:
    """What may be chosen.

    Attributes:
        formats: one of the words of ``FORMATS``.
        floors: by role, the smallest type that its tensors may get; sizes are compared.
        equal_pairs: gate and up of a layer get the same type, as fused kernels want it.
    """

    formats: str = "all"
    floors: Mapping[Role, str] = field(default_factory=dict)
    equal_pairs: bool = False

    def __post_init__(self) -> None:
        if self.formats not in FORMATS:
            raise UsageError(
                f"There are no formats {self.formats!r}.", f"choose {'; '.join(FORMATS)}"
            )
        for role, name in self.floors.items():
            if name not in TYPES or not TYPES[name].has_quantizer:
                raise UsageError(
                    f"There is no type {name} to quantize to (the floor of {role.value}).",
                    "as in --floor attention=Q6_K",
                )
