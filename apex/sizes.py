"""Sizes as people write them."""

from __future__ import annotations

import re

from apex.errors import UsageError

__all__ = ["parse_bytes", "parse_size"]

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE | re.ASCII)


def parse_size(text: str, option: str, unit: int = 1024) -> int:
    """Bytes from "2G", "500M" or "1048576"; K, M, G, T are powers of ``unit``, Ki, Mi, … of 1024.

    Raises UsageError.
    """
    match = _SIZE.fullmatch(text.strip())
    size = 0
    if match is not None:
        base = 1024 if match[3] else unit
        size = int(float(match[1]) * base ** " KMGT".index(match[2].upper() or " "))
    if size < 1:
        raise UsageError(f"{option} {text} is not a size.", "write it like 2G or 500M")
    return size


def parse_bytes(text: str, option: str) -> int:
    """Bytes from "16GiB" or "16G", powers of 1024, from "16GB", powers of 1000, or plain bytes.

    Raises UsageError.
    """
    return parse_size(text, option, 1000 if text.strip().upper().endswith("B") else 1024)
