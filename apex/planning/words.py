"""Lists and counts in the plan's sentences."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

__all__ = ["closest", "count", "listed"]

_NAMES_SHOWN = 12
_SINGULAR = {"": "", "are": "is", "have": "has", "match": "matches", "use": "uses"}


def count(number: int, noun: str, verb: str = "") -> str:
    """A number and its noun, with a verb in its plural form: 1 tensor has, 2 tensors have."""
    if number != 1:
        return f"{number} {noun}s {verb}".rstrip()
    return f"1 {noun} {_SINGULAR[verb]}".rstrip()


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(names[:_NAMES_SHOWN])
    more = len(names) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def closest(name: str, known: Sequence[str]) -> str:
    """A hint: the known name that resembles ``name`` most, if any does, and all of them."""
    match = get_close_matches(name, known, n=1)
    return (f"did you mean {match[0]}? " if match else "") + f"known: {', '.join(known)}"
