"""The built-in texts, and texts of the user's."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support.language import write_language_model

from apex import _core
from apex.calibration import BUILT_IN, Text, built_in, built_in_text, read_texts
from apex.calibration.documents import documents, mixed
from apex.errors import UsageError

VOCABULARIES = Path(__file__).parents[2] / "vendor/llama.cpp/models"


def test_the_set_is_diverse_and_of_the_size_that_it_promises() -> None:
    model = _core.Model(str(VOCABULARIES / "ggml-vocab-qwen35.gguf"), vocabulary_only=True)
    sizes = {name: len(model.tokenize(built_in_text(name).encode())) for name in BUILT_IN}
    assert 50_000 <= sum(sizes.values()) <= 70_000, sizes
    assert min(sizes.values()) > 5_000, sizes
    scripts = built_in_text("languages")
    for sign in "的のяоعनगرλ한ąğ":
        assert sign in scripts


def test_nothing_is_filler() -> None:
    """No document twice, and hardly a longer line."""
    seen = [document for name in BUILT_IN for document in documents(name)]
    assert len(set(seen)) == len(seen)
    lines = Counter(
        line
        for document in seen
        for _, content in document.messages
        for line in content.splitlines()
        if len(line) > 40
    )
    assert [line for line, count in lines.items() if count > 4] == []


@pytest.mark.parametrize("name", BUILT_IN)
def test_documents_are_whole(name: str) -> None:
    for document in documents(name):
        roles = [role for role, _ in document.messages]
        assert all(content.strip() for _, content in document.messages)
        if document.is_chat:
            assert set(roles) <= {"system", "user", "assistant", "tool"}
            assert "assistant" in roles and roles.count("system") <= 1
        else:
            assert roles == [""]


def test_chats_take_the_form_of_the_model(tmp_path: Path, demo_model: Path) -> None:
    templated = tmp_path / "chat.gguf"
    write_language_model(templated, "{% for m in messages %}[INST] {{ m }} [/INST]{% endfor %}")
    chats = {text.name: text for text in built_in(_core.Model(str(templated)), ["chat", "prose"])}
    assert "[INST]" in chats["apex:chat"].content.decode()
    assert "<|im_start|>" not in chats["apex:chat"].content.decode()
    assert "[INST]" not in chats["apex:prose"].content.decode()
    plain = built_in(_core.Model(str(demo_model)), ["chat"])[0]
    assert "<|im_start|>user\n" in plain.content.decode()
    assert plain.parse_special


def test_files_have_weights(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n")
    (tmp_path / "b=3").write_text("two")
    plain, weighted, odd = read_texts(
        [tmp_path / "a.txt", f"{tmp_path / 'a.txt'}=2.5", tmp_path / "b=3"]
    )
    assert (plain.weight, weighted.weight, odd.weight) == (1, 2.5, 1)
    assert plain.content == b"one\n"  # llama.cpp's tools take one line break off
    assert odd.content == b"two"
    for wrong, message in (
        (tmp_path / "none.txt", "cannot be read"),
        (f"{tmp_path / 'a.txt'}=0", "above 0"),
        (f"{tmp_path / 'a.txt'}=much", "cannot be read"),
    ):
        with pytest.raises(UsageError, match=message):
            read_texts([wrong])
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(UsageError, match="empty"):
        read_texts([tmp_path / "empty.txt"])


def test_text_that_is_not_utf_8_is_named_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    for content, place in (
        (b"some words \xf7\xbf\xbf\xbf and more", "offset 11 is 0xf7"),
        ("größe".encode("latin-1"), "offset 2 is 0xf6"),
        (b"a\xed\xa0\x80b", "offset 1 is 0xed"),  # half of a UTF-16 pair
    ):
        path.write_bytes(content)
        for attempt in (lambda: read_texts([path]), lambda data=content: Text(str(path), data)):
            with pytest.raises(UsageError, match=rf"text\.txt is not UTF-8 text: .* {place}"):
                attempt()
    # The first so many bytes of a text, as llama.cpp's tools take them.
    path.write_bytes("größe".encode()[:3])
    assert read_texts([path])[0].content == b"gr\xc3"


def test_an_unknown_domain() -> None:
    with pytest.raises(UsageError, match="poetry"):
        built_in_text("poetry")


def test_texts_are_interleaved_by_weight() -> None:
    def chunks(start: int, count: int) -> np.ndarray:
        return np.arange(start, start + count, dtype=np.int32).reshape(count, 1)

    parts = [chunks(0, 6), chunks(100, 3), chunks(200, 2)]
    rows, origins = mixed(parts, [2, 1, 1], None)
    assert origins.tolist() == [0, 0, 1, 2, 0, 0, 1, 2, 0, 0, 1]
    assert rows[:, 0].tolist() == [0, 1, 100, 200, 2, 3, 101, 201, 4, 5, 102]
    assert mixed(parts, [1, 1, 1], 4)[1].tolist() == [0, 1, 2, 0]
    assert mixed(parts, [1, 1, 1], None)[1].tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 0, 0, 0]
