"""How many of a model's routed experts a calibration has reached."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Coverage", "coverage_of"]

_EXPERTS = re.compile(r"blk\.(\d+)\.ffn_[a-z_]*exps\.weight$")


@dataclass(frozen=True)
class Coverage:
    """How much the routed experts have seen.

    Attributes:
        min_tokens: what an expert must have seen to be covered.
        experts: how many there are, over all layers.
        reached: how many have seen any token.
        covered: how many have seen ``min_tokens``.
        unreached: by layer, the experts that no token reached.
        fewest, median: tokens that an expert has seen.
    """

    min_tokens: int
    experts: int
    reached: int
    covered: int
    unreached: dict[int, tuple[int, ...]]
    fewest: int
    median: float

    @property
    def share(self) -> float:
        """The covered experts' share of all."""
        return self.covered / self.experts

    @property
    def sentence(self) -> str:
        """In words, without a full stop."""
        left_out = self.experts - self.reached
        if left_out == 0:
            rest = "every expert was reached"
        elif left_out == 1:
            rest = "1 was reached by no token and would be quantized without importance"
        else:
            rest = f"{left_out} were reached by no token and would be quantized without importance"
        return (
            f"{100 * self.share:.2f} % of the {self.experts} experts have seen {self.min_tokens} "
            f"tokens or more (median {self.median:.0f}, fewest {self.fewest}); {rest}"
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "min_tokens": self.min_tokens,
            "experts": self.experts,
            "reached": self.reached,
            "covered": self.covered,
            "share": self.share,
            "unreached": {str(layer): list(which) for layer, which in self.unreached.items()},
            "fewest_tokens": self.fewest,
            "median_tokens": self.median,
        }


def coverage_of(counts: Mapping[str, npt.NDArray[Any]], min_tokens: int) -> Coverage | None:
    """The coverage, from the counts of an importance matrix; None without routed experts.

    A layer's gate, up and down see the same tokens; where they differ, the least counts.
    """
    layers: dict[int, npt.NDArray[Any]] = {}
    for name, values in counts.items():
        match = _EXPERTS.match(name)
        if match is not None and len(values) > 1:
            layer = int(match[1])
            layers[layer] = np.minimum(layers[layer], values) if layer in layers else values
    if not layers:
        return None
    everything = np.concatenate(list(layers.values()))
    unreached = {
        layer: tuple(np.flatnonzero(values == 0).tolist())
        for layer, values in sorted(layers.items())
        if (values == 0).any()
    }
    return Coverage(
        min_tokens,
        len(everything),
        int((everything > 0).sum()),
        int((everything >= min_tokens).sum()),
        unreached,
        int(everything.min()),
        float(np.median(everything)),
    )
