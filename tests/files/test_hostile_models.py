"""Damaged and malicious files: one clear error each, and the interpreter lives."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.llama import write_llama

import apex
from apex import _core
from apex.errors import ApexError, ModelFileError


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    dims = struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}q", *shape)
    return text(name) + dims + struct.pack("<IQ", kind, offset)


def header(
    tensors: list[bytes], keys: list[bytes] = (), *, counts: tuple[int, int] | None = None
) -> bytes:
    tensor_count, key_count = counts or (len(tensors), len(keys))
    body = b"GGUF" + struct.pack("<Iqq", 3, tensor_count, key_count)
    body += b"".join(keys) + b"".join(tensors)
    return body + b"\0" * (-len(body) % 32)


ARCHITECTURE = text("general.architecture") + struct.pack("<I", 8) + text("llama")

F32 = 0

CASES = {
    "empty": (b"", "ends too early|magic"),
    "no gguf": (b"#!/bin/sh\necho hello\n" * 10, "magic"),
    "magic only": (b"GGUF", "header"),
    "version 1": (b"GGUF" + struct.pack("<Iqq", 1, 0, 0), "GGUFv1"),
    "version of the future": (b"GGUF" + struct.pack("<Iqq", 4000, 0, 0), "version 4000"),
    "other byte order": (b"GGUF" + struct.pack(">Iqq", 3, 0, 0), "endian"),
    "no tensors": (header([], [ARCHITECTURE]), "has no tensors"),
    "absurd number of tensors": (header([], counts=(2**62, 0)), "number of tensors"),
    "absurd number of keys": (header([], counts=(0, 2**62)), "number of key"),
    "negative number of tensors": (header([], counts=(-1, 0)), "number of tensors"),
    "more tensors than there are": (header([], counts=(1000, 0)), "tensor|early"),
    "absurd string": (header([], [struct.pack("<Q", 2**60)], counts=(0, 1)), "string length|key"),
    "absurd array": (
        header([], [text("a") + struct.pack("<IIQ", 9, 4, 2**60)], counts=(0, 1)),
        "key|early",
    ),
    "nested array": (header([], [text("a") + struct.pack("<IIQ", 9, 9, 1)], counts=(0, 1)), "type"),
    "unknown value type": (header([], [text("a") + struct.pack("<I", 77)], counts=(0, 1)), "type"),
    "key twice": (header([], [ARCHITECTURE, ARCHITECTURE]), "duplicate key"),
    "empty key": (header([], [text("") + struct.pack("<IB", 0, 0)]), "empty"),
    "tensor twice": (
        header([tensor("a.weight", (8,), F32, 0), tensor("a.weight", (8,), F32, 32)]) + b"\0" * 64,
        "duplicate",
    ),
    "overlapping offsets": (
        header([tensor("a.weight", (8,), F32, 0), tensor("b.weight", (8,), F32, 0)]) + b"\0" * 64,
        "offset",
    ),
    "offset out of range": (
        header([tensor("a.weight", (8,), F32, 2**40)]) + b"\0" * 64,
        "offset",
    ),
    "five dimensions": (header([tensor("a.weight", (1, 1, 1, 1, 1), F32, 0)]), "dimensions|n_dims"),
    "negative dimension": (header([tensor("a.weight", (-8,), F32, 0)]), "number of elements"),
    "overflowing shape": (header([tensor("a.weight", (2**40, 2**40), F32, 0)]), "overflow"),
    "unknown tensor type": (header([tensor("a.weight", (8,), 999, 0)]), "invalid ggml type"),
    "removed tensor type": (header([tensor("a.weight", (256,), 31, 0)]), "block size|type"),
    "rows that are no whole blocks": (header([tensor("a.weight", (100,), 12, 0)]), "block size"),
    "no weights": (header([tensor("a.weight", (0,), F32, 0)]), "no weights"),
    "long tensor name": (header([tensor("a" * 100, (8,), F32, 0)]), "name"),
    "odd alignment": (
        header(
            [tensor("a.weight", (8,), F32, 0)],
            [text("general.alignment") + struct.pack("<II", 4, 33)],
        ),
        "power of 2",
    ),
    "alignment of another type": (
        header(
            [tensor("a.weight", (8,), F32, 0)],
            [text("general.alignment") + struct.pack("<I", 8) + text("32")],
        ),
        "alignment",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_damaged_header_is_refused(tmp_path: Path, case: str) -> None:
    data, reason = CASES[case]
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=f"(?s){path.name}.*({reason})") as caught:
        apex.plan(path, file_type="Q4_K_M")
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="No such file"):
        apex.open_model(tmp_path / "nothing.gguf")
    with pytest.raises(ModelFileError, match="is not a regular file"):
        apex.open_model(tmp_path)


def test_truncated_data_is_refused_but_can_be_planned_for(
    dense_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(dense_model.read_bytes()[:-100_000])
    whole = apex.plan(dense_model, file_type="Q4_K_M")
    assert apex.plan(path, file_type="Q4_K_M").tensor_bytes == whole.tensor_bytes
    with pytest.raises(ModelFileError, match=r"truncated: .* of 21 tensors"):
        apex.quantize(path, tmp_path / "out.gguf", file_type="Q4_K_M")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.block_count", 0),
        ("llama.block_count", 2**31),
        ("llama.attention.head_count", 0),
        ("llama.attention.head_count", 2**32 - 1),
        ("llama.attention.head_count_kv", 0),
        ("llama.embedding_length", 0),
        ("llama.expert_count", 2**32 - 1),
        ("llama.expert_used_count", 2**20),
        ("llama.rope.dimension_count", 2**32 - 1),
        ("llama.nextn_predict_layers", 2**31),
    ],
)
def test_absurd_metadata_does_no_harm(tmp_path: Path, key: str, value: int) -> None:
    path = tmp_path / "model.gguf"
    write_llama(path)
    try:  # some of it does not matter for quantizing
        apex.plan(path, file_type="Q4_K_M", overrides={key: value})
        apex.plan(path, tier="quality", overrides={key: value})
    except ApexError as error:
        assert error.hint


def test_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    keys = [text("general.architecture") + struct.pack("<I", 8) + text("gpt-9")]
    path.write_bytes(header([tensor("a.weight", (256, 2), F32, 0)], keys) + b"\0" * 2048)
    with pytest.raises(ModelFileError, match="unknown model architecture: 'gpt-9'"):
        apex.plan(path, file_type="Q8_0")


def test_the_metadata_of_a_damaged_file_does_not_leak_into_the_next(
    dense_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(CASES["tensor twice"][0])
    with pytest.raises(ModelFileError):
        apex.open_model(path)
    assert len(apex.open_model(dense_model).tensors) == 21


MODEL: bytes = b""


@settings(
    deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_change_of_a_header_aborts(
    dense_model: Path, tmp_path: Path, data: st.DataObject
) -> None:
    global MODEL
    if not MODEL:
        end = _core.Header.read(str(dense_model)).data_offset
        MODEL = dense_model.read_bytes()[:end]
    changed = bytearray(MODEL)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(4, len(MODEL) - 8))
        width = data.draw(st.sampled_from([1, 4, 8]))
        value = data.draw(st.sampled_from([0, 1, 255, 2**31, 2**32 - 1, 2**63, 2**64 - 1]))
        changed[position : position + width] = (value % 256**width).to_bytes(width, "little")
    path = tmp_path / "fuzzed.gguf"
    path.write_bytes(changed[: data.draw(st.integers(len(MODEL) // 2, len(MODEL)))])
    try:
        apex.plan(path, tier="quality")
        apex.plan(path, file_type="Q2_K")
    except ApexError as error:
        assert error.message
