"""Tables as text of a given width: no number is ever cut, and no row is without its name."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

__all__ = ["fold", "lay_out", "text_width"]

_GAP = 2
# To what a column of text may shrink; numbers keep their width.
_NARROWEST = 18
# To what all columns of names may shrink together.
_NARROWEST_NAMES = 20

_SIGNS = "-_./,|:;="


def lay_out(
    rows: Sequence[Sequence[str]], numbers: Sequence[bool], width: int | None, *, names: int = 1
) -> Iterator[tuple[int, str]]:
    """The lines of a table whose first row is its head, each after the number of its row.

    A table that is too wide has its text folded. Where that is not enough, it is split into blocks
    of columns, each with the names before it, and an empty line (row -1) between them.

    numbers: for each column whether it holds numbers. width: of the terminal, or None.
    names: how many columns at the left say what a row is about.
    """
    natural = [max(text_width(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, (columns, widths) in enumerate(_blocks(natural, numbers, width, names)):
        if number:
            yield -1, ""
        right = [numbers[column] for column in columns]
        for index, row in enumerate(rows):
            cells = [
                [row[column]] if numbers[column] else fold(row[column], size)
                for column, size in zip(columns, widths, strict=True)
            ]
            if number and not any(row[column] for column in columns[names:]):
                continue  # nothing but the name, which was there before
            for line in _lines(cells, widths, right):
                yield index, line


_Block = tuple[Sequence[int], Sequence[int]]  # columns and their widths


def _blocks(
    natural: Sequence[int], numbers: Sequence[bool], width: int | None, names: int
) -> Iterator[_Block]:
    everything = range(len(natural))
    if width is None:
        yield everything, natural
        return
    narrowest = [
        size
        if is_number
        else min(size, _NARROWEST if column >= names else _NARROWEST_NAMES // names)
        for column, (size, is_number) in enumerate(zip(natural, numbers, strict=True))
    ]
    whole = _shrunk(natural, narrowest, width)
    if whole is not None:
        yield everything, whole
        return
    share = 2 * width // (5 * names)
    left = [min(natural[column], max(narrowest[column], share)) for column in range(names)]
    block = list(range(names))
    for column in everything[names:]:
        used = sum(left) + sum(narrowest[other] + _GAP for other in block[names:]) + _GAP * names
        if len(block) > names and used + narrowest[column] > width:
            yield block, _fitted(block, natural, narrowest, width)
            block = list(range(names))
        block.append(column)
    yield block, _fitted(block, natural, narrowest, width)


def _fitted(
    block: Sequence[int], natural: Sequence[int], narrowest: Sequence[int], width: int
) -> list[int]:
    """Widths for a block of columns; where even numbers do not fit, they stick out."""
    least = [narrowest[column] for column in block]
    return _shrunk([natural[column] for column in block], least, width) or least


def _shrunk(natural: Sequence[int], narrowest: Sequence[int], width: int) -> list[int] | None:
    """Widths that fit, the widest column made narrower first; None where that is impossible."""
    widths = list(natural)
    excess = sum(widths) + _GAP * (len(widths) - 1) - width
    for _ in range(excess):
        able = [column for column, size in enumerate(widths) if size > narrowest[column]]
        if not able:
            return None
        widths[max(able, key=widths.__getitem__)] -= 1
    return widths


def _lines(
    cells: Sequence[Sequence[str]], widths: Sequence[int], right: Sequence[bool]
) -> Iterator[str]:
    for index in range(max(map(len, cells))):
        parts = []
        for cell, size, is_right in zip(cells, widths, right, strict=True):
            text = cell[index] if index < len(cell) else ""
            space = " " * (size - text_width(text))
            parts.append(space + text if is_right else text + space)
        yield (" " * _GAP).join(parts).rstrip()


def fold(text: str, width: int) -> list[str]:
    """The text in lines that are not wider: broken at a space, else after a sign, else anywhere."""
    lines = []
    while text_width(text) > width:
        end = next(end for end in range(1, len(text) + 1) if text_width(text[:end]) > width)
        space = text.rfind(" ", 1, end)
        signs = [at for at in range(1, end) if _may_break(text, at)]
        cut = space if space > 0 else max(signs, default=max(end - 1, 1))
        lines.append(text[:cut].rstrip())
        text = text[cut:].lstrip()
    return [*lines, text]


def _may_break(text: str, at: int) -> bool:
    """After a sign, but not within a number."""
    return text[at - 1] in _SIGNS and not (text[at].isdigit() and text[at - 1] in ".,")


def text_width(text: str) -> int:
    """Columns of a terminal that the text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )
