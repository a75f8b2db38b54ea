"""``--imatrix auto``: an importance matrix beside its model, made, used again, never someone's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.language import write_text
from support.llama import write_llama

import apex
from apex.calibration import CollectOptions, read_texts
from apex.calibration.automatic import calibrate_beside, matrix_beside
from apex.calibration.identity import earlier_digest, model_digest
from apex.errors import ImatrixError
from apex.files import load_imatrix, write_imatrix
from apex.inference import RunOptions

OPTIONS = CollectOptions(run=RunOptions(context_length=64, batch_size=256), chunks=4)


@pytest.fixture
def model(language_model: Path, tmp_path: Path) -> Path:
    """A copy of a small model, in a folder of its own."""
    path = tmp_path / "model.gguf"
    path.write_bytes(language_model.read_bytes())
    return path


def change_a_weight(path: Path) -> None:
    offset = apex.open_model(path).offsets["blk.0.attn_q.weight"]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\x00\x3c\x00\xbc")  # 1, -1


def write_foreign(path: Path, model: Path, columns: int = 0, note: str = "") -> bytes:
    """A matrix with an entry for each of the model's, as another tool would write it."""
    matrix = apex.ImportanceAccumulator()
    for tensor in apex.open_model(model).tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) > 1:
            matrix.add(tensor.name, np.ones((4, columns or tensor.columns), np.float32))
    notes = {"apex.calibration.model": note} if note else {}
    entries = matrix.entries
    write_imatrix(path, entries, datasets=[], chunk_count=1, chunk_size=4, notes=notes)
    return path.read_bytes()


def test_it_is_made_and_used_again(model: Path, tmp_path: Path) -> None:
    file = apex.open_model(model)
    assert not matrix_beside(file).is_usable
    made, result = calibrate_beside(model, options=OPTIONS)
    assert result is not None and made == tmp_path / "model.imatrix.gguf"
    before = made.read_bytes()
    assert calibrate_beside(file, options=OPTIONS) == (made, None)
    assert made.read_bytes() == before
    found = matrix_beside(file, OPTIONS)
    assert (found.path, found.is_usable) == (made, True)
    assert found.remark == "was made of this model"


def test_other_options_are_noticed(model: Path) -> None:
    made, _ = calibrate_beside(model, options=OPTIONS)
    file = apex.open_model(model)
    two = replace(OPTIONS, chunks=2)
    found = matrix_beside(file, two)
    assert not found.is_usable
    assert found.remark == "was made with other options: chunks 4 instead of 2"
    any_will_do = matrix_beside(file)
    assert any_will_do.is_usable and "chunks 4 instead of all" in any_will_do.remark
    # How it is run changes low digits alone.
    other_run = replace(OPTIONS, run=replace(OPTIONS.run, batch_size=64, threads=1), save_every=1)
    assert matrix_beside(file, other_run).is_usable
    _, result = calibrate_beside(model, options=two)
    assert result is not None and load_imatrix(made).chunk_count == 2


def test_changed_weights_are_noticed(model: Path) -> None:
    file = apex.open_model(model)
    digests = [model_digest(file)]
    made, _ = calibrate_beside(model, options=OPTIONS)
    change_a_weight(model)
    digests.append(model_digest(file))
    assert digests[0] != digests[1]
    found = matrix_beside(file, OPTIONS)
    assert not found.is_usable and found.remark == "was made of other weights"
    _, result = calibrate_beside(model, options=OPTIONS)
    assert result is not None
    assert load_imatrix(made).notes["apex.calibration.model"] == digests[1]


def test_every_tensor_is_sampled(model: Path) -> None:
    """Its first and its last weights, and some between."""
    file = apex.open_model(model)
    data, seen = bytearray(model.read_bytes()), {model_digest(file)}
    for number, tensor in enumerate(file.tensors):
        first = file.offsets[tensor.name]
        for offset in (first, first + tensor.bytes - 1):
            data[offset] ^= 1
            model.write_bytes(data)
            seen.add(model_digest(file))
            data[offset] ^= 1
        assert len(seen) == 3 + 2 * number, tensor.name


def test_what_someone_else_made_is_used_where_it_fits(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.imatrix.gguf"
    file = apex.open_model(model)
    for note, remark in (
        ("", "does not say what it was made of, but fits this model"),
        (earlier_digest(file), "was made by an earlier apex of this model"),
        ("0" * 64, "was made of another file, but fits this model"),
    ):
        path.unlink(missing_ok=True)
        before = write_foreign(path, model, note=note)
        assert remark in matrix_beside(file).remark
        assert "options for making one have no effect" in matrix_beside(file, OPTIONS).remark
        assert calibrate_beside(model, options=OPTIONS) == (path, None)
        assert path.read_bytes() == before


@pytest.mark.parametrize("what", ["sizes", "names", "damaged", "weights", "options"])
def test_what_someone_else_made_is_never_replaced(model: Path, tmp_path: Path, what: str) -> None:
    path = tmp_path / "model.imatrix.gguf"
    if what == "sizes":
        write_foreign(path, model, columns=8)
        message = "was made of another model: blk.0.* has 8 values there"
    elif what == "names":
        other = tmp_path / "other.gguf"
        write_llama(other)
        matrix = apex.ImportanceAccumulator()
        matrix.add("blk.99.attn_q.weight", np.ones((4, 8), np.float32))
        matrix.save(path)
        message = "was made of another model: it has no entry for any tensor"
    elif what == "damaged":
        path.write_bytes(b"GGUF and nothing else")
        message = "is damaged"
    else:
        text = tmp_path / "text.txt"
        write_text(text, 1600)
        apex.calibrate(model, path, read_texts([text]), options=OPTIONS)
        assert matrix_beside(apex.open_model(model)).is_usable
        message = "was made with other options: chunks 4 instead of 2"
        if what == "weights":
            change_a_weight(model)
            message = "was made of other weights"
    before = path.read_bytes()
    for attempt in (
        lambda: calibrate_beside(model, options=replace(OPTIONS, chunks=2)),
        lambda: matrix_beside(apex.open_model(model), replace(OPTIONS, chunks=2)),
    ):
        with pytest.raises(ImatrixError, match=message) as error:
            attempt()
        assert "--imatrix FILE" in error.value.hint
    assert path.read_bytes() == before
