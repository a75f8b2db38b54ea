"""``apex.ImportanceAccumulator``: sums against numpy in the order of the reference; files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import imatrix as support

import apex
from apex.calibration import coverage_of
from apex.calibration.summary import layer_statistics, tensor_statistics
from apex.errors import DataError, ImatrixError, OutputError, UsageError
from apex.files import load_imatrix


def in_order(rows: np.ndarray) -> np.ndarray:
    """The sum of squares per column, one row after the other, every step rounded to float32."""
    total = np.zeros(rows.shape[1], np.float32)
    for row in rows:
        total += row * row
    return total


@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (300, 1000)])
def test_dense_sums(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(1)
    rows = random.standard_normal(shape, dtype=np.float32)
    matrix = apex.ImportanceAccumulator(threads=3)
    matrix.add("a.weight", rows)
    matrix.add("a.weight", rows[::-1])
    entry = matrix.entries["a.weight"]
    assert np.array_equal(entry.sums[0], in_order(np.concatenate([rows, rows[::-1]])))
    assert entry.counts.tolist() == [2 * shape[0]]


def test_routed_sums() -> None:
    random = np.random.default_rng(2)
    rows = random.standard_normal((500, 130), dtype=np.float32)
    experts = random.integers(0, 5, 500)
    matrix = apex.ImportanceAccumulator(threads=3)
    matrix.add("blk.0.ffn_up_exps.weight", rows[:200], experts[:200], 6)
    matrix.add("blk.0.ffn_up_exps.weight", rows[200:], experts[200:], 6)
    entry = matrix.entries["blk.0.ffn_up_exps.weight"]
    for expert in range(6):
        assert np.array_equal(entry.sums[expert], in_order(rows[experts == expert])), expert
    assert entry.counts.tolist() == np.bincount(experts, minlength=6).tolist()
    assert entry.unreached == (5,)


def test_what_cannot_be_added() -> None:
    matrix = apex.ImportanceAccumulator()
    rows = np.ones((4, 8), np.float32)
    matrix.add("a", rows)
    for arguments in (
        (rows[:, :4],),
        (rows, [0, 1, 2, 9], 4),
        (rows, [0, 1], 4),
        (rows, [0, 1, 2, 3], 0),
        (rows[0],),
    ):
        with pytest.raises(UsageError):
            matrix.add("a", *arguments)
    for bad in (np.nan, np.inf, 1e30):  # the last overflows when it is squared
        rows[2, 5] = bad
        with pytest.raises(DataError, match="not finite"):
            apex.ImportanceAccumulator().add("a", rows)


@pytest.fixture
def filled() -> apex.ImportanceAccumulator:
    random = np.random.default_rng(3)
    matrix = apex.ImportanceAccumulator(chunk_size=16)
    matrix.datasets = ["one.txt"]
    matrix.add("blk.0.attn_q.weight", random.standard_normal((40, 64), dtype=np.float32))
    matrix.add(
        "blk.0.ffn_up_exps.weight",
        random.standard_normal((40, 32), dtype=np.float32),
        random.integers(0, 3, 40),
        4,
    )
    return matrix


def test_file_and_back(filled: apex.ImportanceAccumulator, tmp_path: Path) -> None:
    path = filled.save(tmp_path / "a.gguf", notes={"apex.test": "yes"})
    loaded = load_imatrix(path)
    assert loaded.datasets == ("one.txt",)
    assert (loaded.chunk_count, loaded.chunk_size) == (40 // 16, 16)
    assert loaded.notes == {"apex.test": "yes"}
    for name, entry in filled.entries.items():
        assert np.array_equal(loaded.entries[name].sums, entry.sums)
        assert np.array_equal(loaded.entries[name].counts, entry.counts)
    again = apex.ImportanceAccumulator.load([path], chunk_size=16).save(tmp_path / "b.gguf")
    third = apex.ImportanceAccumulator.load([again], chunk_size=16).save(tmp_path / "c.gguf")
    assert again.read_bytes() == third.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        filled.save(path)
    with pytest.raises(ImatrixError, match="Nothing was collected"):
        apex.ImportanceAccumulator().save(tmp_path / "d.gguf")


def test_older_form(filled: apex.ImportanceAccumulator, tmp_path: Path) -> None:
    """Means times calls, ones for an expert without tokens, as tools/imatrix writes them."""
    path = filled.save(tmp_path / "a.dat", legacy=True)
    entries = filled.entries
    loaded = load_imatrix(path)
    assert loaded.is_legacy
    assert loaded.chunk_count == 2
    for name, entry in entries.items():
        calls = -(-int(entry.counts.max()) // 16)
        means = entry.values(len(entry.counts))
        assert np.array_equal(loaded.entries[name].sums.ravel(), means.ravel() * np.float32(calls))
        assert loaded.entries[name].counts.tolist() == [calls]
        expected = means.reshape(1, -1)
        np.testing.assert_allclose(loaded.entries[name].values(1), expected, rtol=1e-6)


def test_merging_adds(filled: apex.ImportanceAccumulator, tmp_path: Path) -> None:
    path = filled.save(tmp_path / "a.gguf")
    both = apex.ImportanceAccumulator.load([path, path], chunk_size=16)
    for name, entry in filled.entries.items():
        assert np.array_equal(both.entries[name].sums, 2 * entry.sums)
        assert np.array_equal(both.entries[name].counts, 2 * entry.counts)
    assert both.datasets == ["one.txt", "one.txt"]
    old = filled.save(tmp_path / "a.dat", legacy=True)
    mixed = apex.ImportanceAccumulator.load([old, path], chunk_size=16)
    assert mixed.entries["blk.0.attn_q.weight"].counts.tolist() == [3 * 16 + 40]


def test_what_cannot_be_merged(filled: apex.ImportanceAccumulator, tmp_path: Path) -> None:
    path = filled.save(tmp_path / "a.gguf")
    name = "blk.0.attn_q.weight"
    other = tmp_path / "other.gguf"
    support.write_gguf(other, {name: (np.ones((1, 32), np.float32), np.ones(1, np.float32))})
    with pytest.raises(ImatrixError, match="does not go with the others"):
        apex.ImportanceAccumulator.load([path, other])
    for value in (np.nan, -1):
        bad = np.full((1, 64), value, np.float32)
        support.write_gguf(other, {name: (bad, np.ones(1, np.float32))})
        with pytest.raises(ImatrixError, match="negative or not finite"):
            apex.ImportanceAccumulator.load([path, other])


def test_each_broken_file_has_its_own_error(
    filled: apex.ImportanceAccumulator, dense_model: Path, tmp_path: Path
) -> None:
    path = filled.save(tmp_path / "a.gguf")
    data = path.read_bytes()
    cases = {
        "empty": (b"", "is empty"),
        "foreign": (b"no importance matrix at all", "is not an importance matrix"),
        "cut header": (data[:100], "is damaged"),
        "cut data": (data[:-40], "truncated|damaged"),
        "model": (dense_model.read_bytes(), "but not an importance matrix"),
    }
    for name, (content, message) in cases.items():
        broken = tmp_path / f"{name}.gguf"
        broken.write_bytes(content)
        with pytest.raises(ImatrixError, match=message):
            apex.ImportanceAccumulator.load([broken])
    with pytest.raises(ImatrixError, match="cannot be read"):
        apex.ImportanceAccumulator.load([tmp_path / "none.gguf"])


def test_coverage() -> None:
    counts = {
        "blk.0.ffn_up_exps.weight": np.array([0, 5, 40, 100]),
        "blk.0.ffn_down_exps.weight": np.array([0, 5, 40, 99]),
        "blk.1.ffn_gate_up_exps.weight": np.array([32, 31, 0, 0]),
        "blk.1.attn_q.weight": np.array([3]),
    }
    coverage = coverage_of(counts, 32)
    assert coverage is not None
    assert (coverage.experts, coverage.reached, coverage.covered) == (8, 5, 3)
    assert coverage.share == 3 / 8
    assert coverage.unreached == {0: (0,), 1: (2, 3)}
    assert coverage_of({"blk.1.attn_q.weight": np.array([3])}, 32) is None


def test_statistics_by_hand(tmp_path: Path) -> None:
    matrix = apex.ImportanceAccumulator()
    matrix.add("blk.0.attn_q.weight", np.sqrt(np.array([[1, 1, 2, 0], [1, 1, 2, 0]], np.float32)))
    matrix.add("blk.1.attn_q.weight", np.sqrt(np.array([[1, 1, 2, 0]], np.float32)))
    loaded = load_imatrix(matrix.save(tmp_path / "a.gguf"))
    below, above = tensor_statistics(loaded)
    assert below.total == pytest.approx(4)
    assert (below.minimum, below.maximum, below.mean) == pytest.approx((0, 2, 1))
    assert below.active == 0.75
    assert below.entropy == pytest.approx(1.5)  # 1/4, 1/4, 1/2
    assert below.relative_entropy == pytest.approx(0.75)
    assert below.outliers == 0.25
    assert below.dominant[0] == (2, pytest.approx(0.5))
    assert below.similarity is None
    assert above.similarity == pytest.approx(1)
    layers = layer_statistics((below, above))
    assert [layer.layer for layer in layers] == [0, 1]
    assert layers[0].total == pytest.approx(4)
