"""A byte-level vocabulary, learned from a few sentences by byte-pair encoding."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

__all__ = ["END_OF_TEXT", "learn_vocabulary"]

END_OF_TEXT = "<|endoftext|>"

_MERGES = 255

_TEXT = """
The river runs through the valley and under the old stone bridge, and in the spring the water is
high. A model of experts sends every token to the few that know it best; the others rest. When the
weights are stored with fewer bits, some of them matter more than others, and those are kept with
more care. The reader who wants to see how it works will find here a small model that anyone can
make in a second: it has learned nothing, but it has the shape of the large ones. There is attention
in every fourth layer, a state that runs along the text in the others, a router, and a head that
guesses one more word ahead. What was measured on the small one should be measured again on the
large one, and what was written in the morning should be read again in the evening.
"""


def byte_symbols() -> list[str]:
    """The character that stands for each byte, as in GPT-2: itself where it can be seen."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = {byte: chr(byte) for byte in visible}
    hidden = [byte for byte in range(256) if byte not in symbols]
    symbols |= {byte: chr(256 + index) for index, byte in enumerate(hidden)}
    return [symbols[byte] for byte in range(256)]


def learn_vocabulary() -> tuple[list[str], list[str]]:
    """(tokens, merges): the end of text, 256 bytes and what the merges make; always the same."""
    symbols = byte_symbols()
    space = symbols[ord(" ")]
    words = Counter(f"{space}{word}" for word in _TEXT.split())
    pieces = {word: list(word) for word in words}
    tokens, merges = [END_OF_TEXT, *symbols], []
    for _ in range(_MERGES):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in pieces.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        left, right = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(f"{left} {right}")
        tokens.append(left + right)
        pieces = {word: _merge(parts, left, right) for word, parts in pieces.items()}
    return tokens, merges


def _merge(parts: list[str], left: str, right: str) -> list[str]:
    result: list[str] = []
    for part in parts:
        if result and result[-1] == left and part == right:
            result[-1] = left + right
        else:
            result.append(part)
    return result
