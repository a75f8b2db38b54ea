"""Where a curve of loss over bytes bends: a byte buys much more up to there than after."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

__all__ = ["knees"]

_MOST = 5
_LEAST_DEPTH = 0.03


def knees(sizes: Sequence[int], losses: Sequence[float]) -> list[int]:
    """Indexes, ascending, of the points where the logarithm of the loss bends most: at most five.

    A knee is the point deepest below the chord between two others, in a square in which the whole
    curve has width 1 and height 1; the first chord goes from end to end, the next ones from there
    to the knees that were found, always the deepest first, as long as the depth is at least 0.03.
    (For one knee that is the definition of Satopää et al., "Finding a Kneedle in a Haystack",
    2011.) Points of no loss, which have no logarithm, are left out.

    Args:
        sizes: of the points, ascending.
        losses: of the points, descending.
    """
    heights = np.array(losses, np.float64)
    heights = np.log(heights[heights > 0])
    if len(heights) < 3 or heights[0] == heights[-1]:
        return []
    across = np.array(sizes[: len(heights)], np.float64)
    across = (across - across[0]) / (across[-1] - across[0])
    heights = (heights - heights[-1]) / (heights[0] - heights[-1])

    def deepest(start: int, stop: int) -> tuple[float, int, int, int]:
        inside = slice(start, stop + 1)
        chord = np.interp(across[inside], across[[start, stop]], heights[[start, stop]])
        depths = chord - heights[inside]
        return -float(depths.max()), start + int(depths.argmax()), start, stop

    found: list[int] = []
    chords = [deepest(0, len(heights) - 1)]
    while chords and len(found) < _MOST:
        depth, knee, start, stop = heapq.heappop(chords)
        if -depth < _LEAST_DEPTH:
            break
        found.append(knee)
        heapq.heappush(chords, deepest(start, knee))
        heapq.heappush(chords, deepest(knee, stop))
    return sorted(found)
