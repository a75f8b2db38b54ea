"""Whether an importance matrix is good enough."""

from __future__ import annotations

import numpy as np
import pytest

from apex.calibration import Coverage, coverage_of
from apex.calibration.verdict import Grade, judge
from apex.files import ImportanceEntry, ImportanceMatrix


def matrix(chunks: int, chunk_size: int = 512) -> ImportanceMatrix:
    return ImportanceMatrix("m.gguf", {}, (), chunks, is_legacy=False, chunk_size=chunk_size)


def coverage(*tokens: int) -> Coverage:
    counts = {"blk.0.ffn_up_exps.weight": np.array(tokens, np.float32)}
    found = coverage_of(counts, 32)
    assert found is not None
    return found


def test_a_good_one() -> None:
    verdict = judge(matrix(125), coverage(*[32] * 100), [])
    assert (verdict.grade, verdict.advice, verdict.missing) == (Grade.GOOD, "", ())
    assert verdict.tokens == 64_000
    text = "\n".join(verdict.reasons)
    assert "64,000 tokens of text" in text and "every tensor of the model" in text
    assert "100.00 % of the 100 experts have seen 32 tokens or more (median 32, fewest 32)" in text
    assert "every expert was reached" in text


def test_a_dense_model_has_no_experts_to_cover() -> None:
    verdict = judge(matrix(125), None)
    assert verdict.grade is Grade.GOOD
    assert verdict.reasons == ("it was made from 64,000 tokens of text",)


@pytest.mark.parametrize(
    ("chunks", "tokens", "missing", "grade", "first"),
    [
        (125, [32] * 100 + [0], None, Grade.USABLE, "1 was reached by no token"),
        (125, [32] * 95 + [31] * 5, None, Grade.USABLE, "95.00 % of the 100 experts"),
        (125, [32] * 89 + [0] * 11, None, Grade.POOR, "11 were reached by no token"),
        (40, [32] * 100, None, Grade.USABLE, "20,480 tokens of text; 40,000 or more are usual"),
        (8, [32] * 100, None, Grade.POOR, "4,096 tokens of text"),
        (8, [32] * 100, [], Grade.POOR, "4,096 tokens of text"),
        (0, [32] * 100, None, Grade.USABLE, "does not say how many tokens"),
        (125, [32] * 100, ["blk.9.a"], Grade.POOR, "1 tensor of the model has no entry: blk.9.a"),
        (125, [32] * 100, list("abcde"), Grade.POOR, "5 tensors of the model have no entry: a, b,"),
    ],
)
def test_what_is_missing_comes_first(
    chunks: int, tokens: list[int], missing: list[str] | None, grade: Grade, first: str
) -> None:
    verdict = judge(matrix(chunks), coverage(*tokens), missing)
    assert verdict.grade is grade
    assert first in verdict.reasons[0]
    assert "apex imatrix" in verdict.advice
    assert verdict.to_dict()["grade"] == grade.value


def test_entries_do_not_matter_without_a_model() -> None:
    entry = ImportanceEntry(np.ones((1, 4), np.float32), np.ones(1, np.float32))
    some = ImportanceMatrix("m", {"blk.0.attn_q.weight": entry}, (), 125, False, 512)
    assert not any("entry" in reason for reason in judge(some, None).reasons)
