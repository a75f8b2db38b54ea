"""Where a quantized file stands: its KL divergence beside published ones, in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["CAUTION", "PUBLISHED", "Published", "compared_with_published", "standing"]


@dataclass(frozen=True)
class Published:
    """Mean KL divergences that were published of one way to quantize: the lowest and highest."""

    name: str
    lowest: float
    highest: float

    @property
    def range(self) -> str:
        """As text."""
        return f"{self.lowest:.4f} to {self.highest:.4f}"


# From benchmark_results of the project apex-quant (github.com/mudler/apex-quant), whose tables the
# tiers are: Qwen3.6-35B-A3B, Qwen3-Coder-30B-A3B, Qwen3.5-35B-A3B and Qwen3.5-122B-A10B on
# wikitext-2, against the unquantized model. Closest to the reference first.
PUBLISHED = (
    Published("Q8_0", 0.0031, 0.0059),
    Published("i-balanced", 0.0074, 0.0103),
    Published("balanced", 0.0080, 0.0117),
    Published("i-quality", 0.0102, 0.0141),
    Published("quality", 0.0114, 0.0155),
    Published("i-compact", 0.0332, 0.0451),
    Published("compact", 0.0469, 0.0614),
    Published("mini", 0.0862, 0.1015),
)

CAUTION = (
    "The published figures are of four Qwen models with 30 to 122 billion weights on wikitext-2 "
    "(benchmark_results of the project apex-quant). Those are other models and another text: they "
    "tell the order of magnitude and do not judge these files."
)

# Up to which mean KL divergence a file is called what: the upper ends of the published ranges of
# Q8_0, quality, compact and mini.
_WORDS = (
    (PUBLISHED[0].highest, "very close to the reference"),
    (PUBLISHED[4].highest, "close to the reference"),
    (PUBLISHED[6].highest, "at some distance from the reference"),
    (PUBLISHED[7].highest, "far from the reference"),
)


def standing(kl: float, same_top: float) -> str:
    """In words: how close a file is to its reference, and how often the likeliest token changes.

    kl: mean KL divergence in nats. same_top: share of the positions where both find the same token
    the most likely.
    """
    if math.isnan(kl):
        return "not comparable: the KL divergence is not a finite number"
    name = next((name for limit, name in _WORDS if kl <= limit), "very far from the reference")
    return f"{name}: mean KL {kl:.4f} {compared_with_published(kl)}; {_changes(same_top)}"


def compared_with_published(kl: float) -> str:
    """Which published figures a mean KL divergence is like, or between which it lies."""
    first, last = PUBLISHED[0], PUBLISHED[-1]
    alike = [entry for entry in PUBLISHED if entry.lowest <= kl <= entry.highest]
    if alike:
        *others, last_name = (entry.name for entry in alike)
        names = f"{', '.join(others)} and {last_name}" if others else last_name
        return f"is like the published {names} ({_span(alike)})"
    if kl < first.lowest:
        return f"is below all published ones, {first.name} included ({first.range})"
    if kl > last.highest:
        return f"is above all published ones, {last.name} included ({last.range})"
    below = max((e for e in PUBLISHED if e.highest < kl), key=lambda entry: entry.highest)
    above = min((e for e in PUBLISHED if e.lowest > kl), key=lambda entry: entry.lowest)
    return (
        f"is between the published {below.name} (up to {below.highest:.4f}) "
        f"and {above.name} (from {above.lowest:.4f})"
    )


def _span(entries: list[Published]) -> str:
    lowest = min(entry.lowest for entry in entries)
    highest = max(entry.highest for entry in entries)
    return f"{lowest:.4f} to {highest:.4f}"


def _changes(same_top: float) -> str:
    """How often the model's first choice differs, as people say it."""
    differing = 1 - same_top
    if differing <= 0:
        return "the most likely token is the same everywhere"
    text = f"the most likely token is another one at {100 * differing:.2g} % of the positions"
    return text if differing > 0.3 else f"{text}, about 1 in {round(1 / differing)}"
