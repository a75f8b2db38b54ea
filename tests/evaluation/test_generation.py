"""Text that a model writes, against the likeliest tokens after the whole text, run alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import language

from apex import _core
from apex.calibration import built_in_text
from apex.evaluation.generation import Prompt, Sampling, end_tokens, generate
from apex.inference import RunOptions, load_model

TEXT = built_in_text("prose")


def written(model: _core.Model, tokens: np.ndarray, limit: int) -> list[int]:
    """The likeliest tokens after a text."""
    new: list[int] = []
    for _ in range(limit):
        everything = np.concatenate([tokens, np.array(new, np.int32)])
        new.append(int(np.argmax(language.next_logits(model, everything)[-1])))
    return new


def text_of(model: _core.Model, tokens: list[int]) -> str:
    return b"".join(map(model.piece, tokens)).decode("utf-8", errors="replace")


@pytest.mark.parametrize("batch_size", [2048, 24])
def test_the_likeliest_tokens(language_model: Path, batch_size: int) -> None:
    """Of prompts that begin alike, and of more than run side by side."""
    file, model = load_model(language_model)
    common = TEXT[:80]
    texts = [common + TEXT[at : at + 10 + at % 30] for at in (200, 301, 402, 503)] + [TEXT[600:640]]
    tokens = [model.tokenize(text.encode()) for text in texts]
    limits = [5, 9, 1, 7, 6]
    prompts = [Prompt(part, limit) for part, limit in zip(tokens, limits, strict=True)]
    done: list[int] = []
    answers = generate(file, model, prompts, RunOptions(batch_size=batch_size), done.append)
    assert answers == [
        text_of(model, written(model, part, limit))
        for part, limit in zip(tokens, limits, strict=True)
    ]
    assert done == [4, 5]


def test_what_ends_an_answer(language_model: Path, tmp_path: Path) -> None:
    file, model = load_model(language_model)
    tokens = model.tokenize(TEXT[:60].encode())
    whole = text_of(model, written(model, tokens, 8))
    middle = whole[len(whole) // 2 :][:3]
    answers = generate(
        file,
        model,
        [Prompt(tokens, 8, ("never there", middle)), Prompt(tokens, 8, (whole[0],))],
        RunOptions(),
    )
    assert answers == [whole[: whole.index(middle)], ""]
    assert end_tokens(file) == {2}  # of Llama 2


def test_an_end_token_ends_an_answer(language_model: Path) -> None:
    from apex.evaluation import generation

    file, model = load_model(language_model)
    tokens = model.tokenize(TEXT[:60].encode())
    new = written(model, tokens, 6)
    prompt = Prompt(tokens, 6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "end_tokens", lambda file: frozenset({new[3]}))
        (answer,) = generate(file, model, [prompt], RunOptions())
    assert answer == text_of(model, new[: new.index(new[3])])


def test_drawing() -> None:
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))
    random = np.random.default_rng(1)

    def shares(sampling: Sampling) -> np.ndarray:
        drawn = [sampling.draw(logits, random) for _ in range(4000)]
        return np.bincount(drawn, minlength=4) / len(drawn)

    np.testing.assert_allclose(shares(Sampling()), [0.1, 0.4, 0.2, 0.3], atol=0.03)
    np.testing.assert_allclose(shares(Sampling(top_k=2)), [0, 4 / 7, 0, 3 / 7], atol=0.03)
    np.testing.assert_allclose(shares(Sampling(top_p=0.75)), [0, 4 / 9, 2 / 9, 3 / 9], atol=0.03)
    squares = np.array([0.1, 0.4, 0.2, 0.3]) ** 2
    np.testing.assert_allclose(shares(Sampling(0.5)), squares / squares.sum(), atol=0.03)


def test_drawn_text_is_that_of_its_place(language_model: Path) -> None:
    file, model = load_model(language_model)
    tokens = model.tokenize(TEXT[:60].encode())
    prompts = [Prompt(tokens, 6, (), Sampling(2.0)) for _ in range(3)]
    first = generate(file, model, prompts, RunOptions())
    assert first == generate(file, model, prompts, RunOptions())
    assert len(set(first)) == 3
