"""Which chunks of which texts are run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apex import _core
from apex.calibration import Text
from apex.errors import UsageError
from apex.inference import chunks_of
from apex.sensitivity.chunks import Chunks, select_chunks

LENGTH = 16


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> _core.Model:
    return _core.Model(str(tiny_model))


def text(name: str, chunks: int, weight: float = 1.0) -> Text:
    """A text of as many chunks of LENGTH byte tokens, no two alike."""
    numbers = np.random.default_rng(sum(name.encode()))
    letters = "".join(chr(0x3B1 + number) for number in numbers.integers(0, 24, chunks * 8))
    return Text(name, letters.encode(), weight)  # two bytes each, and no word of the vocabulary


def places(model: _core.Model, texts: list[Text], chosen: np.ndarray) -> list[tuple[str, int]]:
    """Where each chunk is from."""
    where = {
        chunk.tobytes(): (each.name, place)
        for each in texts
        for place, chunk in enumerate(chunks_of(model.tokenize(each.content), LENGTH))
    }
    return [where[chunk.tobytes()] for chunk in chosen]


def test_chunks_are_from_all_texts_and_all_places(model: _core.Model) -> None:
    texts = [text("a", 40), text("b", 40)]
    chunks = select_chunks(model, texts, LENGTH, 8, 4)
    assert chunks.probing.shape == (8, LENGTH) and chunks.apart.shape == (4, LENGTH)
    assert chunks.names == ("a", "b")
    probing, apart = (places(model, texts, part) for part in (chunks.probing, chunks.apart))
    assert not set(probing) & set(apart)
    assert {name for name, _ in probing[:2]} == {"a", "b"}
    assert {name for name, _ in apart} == {"a", "b"}
    for name in "ab":
        for part, count in ((probing, 4), (apart, 2)):  # one from each quarter, or half
            taken = sorted(place for each, place in part if each == name)
            assert [place * count // 40 for place in taken] == list(range(count))


def test_a_text_counts_by_its_weight(model: _core.Model) -> None:
    texts = [text("a", 40, 3.0), text("b", 40)]
    chunks = select_chunks(model, texts, LENGTH, 8, 0)
    names = [name for name, _ in places(model, texts, chunks.probing)]
    assert (names.count("a"), names.count("b")) == (6, 2)
    assert chunks.apart.shape == (0, LENGTH)


@pytest.mark.parametrize(
    ("available", "probing", "apart", "expected"),
    [
        (1, 8, 4, (1, 0)),
        (2, 8, 4, (2, 0)),
        (9, 8, 4, (8, 1)),
        (8, 8, 0, (8, 0)),
        (8, 9, 0, (8, 0)),
        (11, 8, 4, (8, 3)),
        (12, 8, 4, (8, 4)),
        (50, 8, 4, (8, 4)),
    ],
)
def test_short_texts_have_fewer(
    model: _core.Model, available: int, probing: int, apart: int, expected: tuple[int, int]
) -> None:
    texts = [text("a", available)]
    assert len(chunks_of(model.tokenize(texts[0].content), LENGTH)) == available
    chunks = select_chunks(model, texts, LENGTH, probing, apart)
    assert (len(chunks.probing), len(chunks.apart)) == expected
    every = [*places(model, texts, chunks.probing), *places(model, texts, chunks.apart)]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize("apart", [1, 3, 7, 40, 1000])
def test_those_apart_change_nothing(model: _core.Model, apart: int) -> None:
    texts = [text("a", 20, 2.0), text("b", 7), text("c", 1)]
    alone = select_chunks(model, texts, LENGTH, 9, 0)
    chunks = select_chunks(model, texts, LENGTH, 9, apart)
    assert np.array_equal(chunks.probing, alone.probing)
    assert chunks.identity(9) == alone.identity(9)
    probing, kept = (places(model, texts, part) for part in (chunks.probing, chunks.apart))
    assert len(kept) == len(set(kept)) == min(apart, 28 - 9)
    assert not set(probing) & set(kept)


def test_no_chunk_at_all(model: _core.Model) -> None:
    with pytest.raises(UsageError, match="No text has a chunk of 4096 tokens"):
        select_chunks(model, [text("a", 3)], 4096, 8, 0)


def test_the_built_in_set_is_the_default(model: _core.Model) -> None:
    assert len(select_chunks(model, (), LENGTH, 8, 0).names) > 4


def test_the_identity_is_that_of_the_chunks_that_ran() -> None:
    tokens = np.arange(60, dtype=np.int32).reshape(4, 15)
    chunks = Chunks(tokens, tokens[:0], ("a",))
    whole, part = chunks.identity(4), chunks.identity(2)
    assert (whole.chunks, whole.positions, whole.context_length) == (4, 4 * 8, 15)
    assert (part.chunks, part.positions) == (2, 2 * 8)
    assert part == Chunks(tokens[:2], tokens[:0], ("a",)).identity(2)
    assert part.digest != whole.digest
