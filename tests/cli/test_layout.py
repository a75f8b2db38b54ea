"""Tables and sentences at any width: nothing is cut, nothing is dropped."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apex.cli.layout import fold, lay_out, text_width

HEAD = ("model", "size", "PPL", "KL mean", "why")
ROWS = (
    ("some-model-30B-A3B-APEX-I-Quality (reference)", "30.31 GiB", "6.5370 ± 0.0400", "", ""),
    ("some-model-30B-A3B-APEX-Mini", "12.20 GiB", "7.0880 ± 0.0400", "0.087000 ± 0.000640",
     "i-quality: routed expert, near the edge of the stack"),
)  # fmt: skip
NUMBERS = (False, True, True, True, False)


def blocks(width: int | None) -> list[list[str]]:
    lines = [line for _, line in lay_out((HEAD, *ROWS), NUMBERS, width)]
    return [block.split("\n") for block in "\n".join(lines).split("\n\n")]


@pytest.mark.parametrize("width", [45, 60, 80, 100, 120, 200, None])
def test_every_number_is_whole_and_every_row_has_its_name(width: int | None) -> None:
    found = blocks(width)
    text = "\n".join(line for block in found for line in block)
    for row in ROWS:
        for cell, is_number in zip(row, NUMBERS, strict=True):
            if is_number and cell:
                assert cell in text
    for block in found:
        assert all(len(line) <= (width or 1000) for line in block)
        assert block[0].startswith("model")
        # What is left of the first number is the name, in one line or in several.
        ends = min(block[0].index(word) for word in HEAD[1:] if word in block[0])
        names = "".join(line[:ends].strip() for line in block[1:])
        assert ROWS[1][0] in names.replace(" ", "") or "Mini" in names
    if width is None or width >= 130:
        assert len(found) == 1


def test_a_pipe_has_no_width() -> None:
    (block,) = blocks(None)
    assert len(block) == 3
    assert block[2].endswith(ROWS[1][4])


def test_text_is_folded_before_a_table_is_split() -> None:
    (block,) = blocks(110)
    assert len(block) > 3


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z", "M"]), max_size=60),
       st.integers(2, 30))  # fmt: skip
def test_folding_loses_nothing(text: str, width: int) -> None:
    lines = fold(text, width)
    assert "".join(lines) == text
    assert all(text_width(line) <= width for line in lines)


def test_where_lines_are_broken() -> None:
    sentence = "mean KL 0.0167 is between the published quality (up to 0.0155) and others"
    for width in range(10, 60):
        lines = fold(sentence, width)
        assert " ".join(lines) == sentence
        assert not any(re.search(r"\d[.,]$", line) for line in lines)
    assert fold("blk.0.ffn_down_exps.weight", 20) == ["blk.0.ffn_down_exps.", "weight"]
    assert fold("aaaaaaaa", 3) == ["aaa", "aaa", "aa"]
    assert fold("模型模型", 5) == ["模型", "模型"]
