"""Second-moment files: what is written is read, parts add up, and what is damaged is refused."""

from __future__ import annotations

import errno
from pathlib import Path

import gguf
import numpy as np
import pytest
from support import imatrix as importance

from apex.errors import ImatrixError, OutputError
from apex.files import (
    MomentsContent,
    MomentsWriter,
    OutputFile,
    is_second_moments,
    load_second_moments,
    merge_second_moments,
)

SIZES = {"blk.0.ffn_up_exps.weight": (5, 3), "blk.0.attn_q.weight": (4, 1)}
ALIASES = {"blk.0.attn_k.weight": "blk.0.attn_q.weight"}


def content(**changes: object) -> MomentsContent:
    given = {
        "model_digest": "sampled:1",
        "datasets": ["text"],
        "chunk_count": 3,
        "chunk_size": 512,
        "sizes": SIZES,
        "aliases": ALIASES,
    }
    return MomentsContent(**{**given, **changes})  # type: ignore[arg-type]


def random_data(seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By name: sums (matrices, triangle) of made-up rows, and counts."""
    random = np.random.default_rng(seed)
    data = {}
    for name, (columns, matrices) in SIZES.items():
        counts = random.integers(1, 9, matrices)
        rows = [random.standard_normal((n, columns)).astype(np.float32) for n in counts]
        sums = np.stack([(r.T @ r)[np.tril_indices(columns)] for r in rows])
        data[name] = (sums, counts)
    return data


def write(path: Path, seed: int, **changes: object) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    data = random_data(seed)
    with MomentsWriter(path, content(**changes)) as writer:
        for name, (sums, counts) in data.items():
            for first in range(len(sums)):
                writer.write(name, first, sums[first : first + 1])
            writer.finish({name: counts})
        writer.commit()
    return data


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "moments.gguf"
    data = write(path, 1)
    assert [file.name for file in tmp_path.iterdir()] == ["moments.gguf"]
    assert path.stat().st_size == content().bytes
    moments = load_second_moments(path)
    assert (moments.model_digest, moments.datasets) == ("sampled:1", ("text",))
    assert (moments.chunk_count, moments.chunk_size) == (3, 512)
    assert set(moments.names) == {*SIZES, *ALIASES}
    for name, (sums, counts) in data.items():
        entry = moments.entry(name)
        assert entry is not None
        assert (entry.columns, entry.matrices) == SIZES[name]
        assert entry.rows.tolist() == counts.tolist()
        assert np.array_equal(np.stack([entry.sums(i) for i in range(entry.matrices)]), sums)
        pooled, rows = entry.pooled()
        assert np.array_equal(pooled, sums.sum(axis=0, dtype=np.float64).astype(np.float32))
        assert rows == counts.sum()
    same = moments.entry("blk.0.attn_k.weight")
    assert same is moments.entry("blk.0.attn_q.weight")
    assert moments.entry("blk.0.attn_v.weight") is None
    # The other implementation of the format sees the same.
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    up = tensors["blk.0.ffn_up_exps.weight.moments"]
    assert up.shape.tolist() == [15, 3]
    assert np.array_equal(up.data, data["blk.0.ffn_up_exps.weight"][0])


def test_the_digest_is_of_header_and_counts(tmp_path: Path) -> None:
    digests = []
    for index, (seed, count) in enumerate([(1, 3), (1, 3), (2, 3), (1, 4)]):
        write(tmp_path / f"{index}", seed, chunk_count=count)
        digests.append(load_second_moments(tmp_path / f"{index}").digest)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_a_writer_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    path, partial = tmp_path / "a.gguf", tmp_path / "a.gguf.partial"
    whole = tmp_path / "whole.gguf"
    data = write(whole, 1)
    up, query = SIZES
    with pytest.raises(KeyboardInterrupt), MomentsWriter(path, content()) as writer:
        writer.write(up, 0, data[up][0])
        writer.finish({up: data[up][1]})
        writer.write(query, 0, data[query][0])
        raise KeyboardInterrupt
    assert partial.exists() and not path.exists()
    with pytest.raises(ImatrixError, match="not complete"):
        load_second_moments(partial)
    with MomentsWriter(path, content()) as writer:
        assert writer.finished == {up}
        writer.write(query, 0, data[query][0])
        writer.finish({query: data[query][1]})
        writer.commit()
    assert path.read_bytes() == whole.read_bytes()
    assert not partial.exists()


def test_a_writer_of_something_else_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    with MomentsWriter(path, content()) as writer:
        writer.finish({name: np.ones(size[1], np.int64) for name, size in SIZES.items()})
        with pytest.raises(OutputError, match="Another process"):
            MomentsWriter(path, content()).__enter__()
    with MomentsWriter(path, content(run="another")) as writer:
        assert not writer.finished


def test_sums_of_weights_are_not_added(tmp_path: Path) -> None:
    up, query = SIZES
    for name, seed in (("a", 1), ("b", 2)):
        write(tmp_path / name, seed, of_weights=[query])
    merge_second_moments([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    first, second, merged = (load_second_moments(tmp_path / name) for name in "abc")
    assert merged.of_weights == (query,)
    entries = {name: [file.entry(name) for file in (first, second, merged)] for name in SIZES}
    (a, b, c), (d, e, f) = entries[query], entries[up]
    assert a and b and c and d and e and f
    assert np.array_equal(c.sums(0), a.sums(0)) and not np.array_equal(c.sums(0), b.sums(0))
    assert (c.rows == a.rows).all()
    assert (f.rows == d.rows + e.rows).all()


def test_parts_add_up(tmp_path: Path) -> None:
    first, second = (write(tmp_path / name, seed) for name, seed in (("a", 1), ("b", 2)))
    merged = load_second_moments(
        merge_second_moments([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    )
    assert merged.chunk_count == 6
    assert merged.datasets == ("text", "text")
    assert merged.aliases == ALIASES
    for name in SIZES:
        entry = merged.entry(name)
        assert entry is not None
        assert entry.rows.tolist() == (first[name][1] + second[name][1]).tolist()
        for matrix in range(entry.matrices):
            expected = first[name][0][matrix] + second[name][0][matrix]
            assert np.array_equal(entry.sums(matrix), expected)


def test_what_does_not_add_up(tmp_path: Path) -> None:
    write(tmp_path / "a", 1)
    write(tmp_path / "model", 1, model_digest="sampled:2")
    write(tmp_path / "aliases", 1, aliases={})
    with pytest.raises(ImatrixError, match="different models"):
        merge_second_moments([tmp_path / "a", tmp_path / "model"], tmp_path / "c")
    with pytest.raises(ImatrixError, match="different tensors"):
        merge_second_moments([tmp_path / "a", tmp_path / "aliases"], tmp_path / "c")
    with pytest.raises(OutputError, match="input itself"):
        merge_second_moments([tmp_path / "a"], tmp_path / "a", overwrite=True)
    assert not (tmp_path / "c").exists()


def changed(path: Path, before: bytes, after: bytes) -> None:
    data = path.read_bytes()
    assert before in data and len(before) == len(after)
    path.write_bytes(data.replace(before, after))


def test_what_is_not_a_second_moment_file(tmp_path: Path, demo_model: Path) -> None:
    importance.write_gguf(
        tmp_path / "imatrix", {"a": (np.ones((1, 4), np.float32), np.ones(1, np.float32))}
    )
    (tmp_path / "text").write_text("no GGUF at all")
    for path in (tmp_path / "imatrix", tmp_path / "text", demo_model):
        assert not is_second_moments(path)
        with pytest.raises(ImatrixError, match="is not a second-moment file") as error:
            load_second_moments(path)
        assert "--second-moments" in error.value.hint
    with pytest.raises(ImatrixError, match="cannot be read"):
        load_second_moments(tmp_path / "missing")
    with pytest.raises(ImatrixError, match="not a regular file"):
        load_second_moments(tmp_path)


def test_damaged_files(tmp_path: Path) -> None:
    write(tmp_path / "whole", 1)
    whole = (tmp_path / "whole").read_bytes()
    path = tmp_path / "damaged"
    for size in (3, 60, 300, len(whole) - 80):
        path.write_bytes(whole[:size])
        with pytest.raises(ImatrixError):
            load_second_moments(path)
    key = b"apex.second_moments.version\x04\0\0\0"
    for before, after, message in (
        (key + b"\x01", key + b"\x02", "version 2"),
        (b"attn_q.weight.rows", b"attn_q.weight.cows", "counts of blk.0.attn_q.weight are missing"),
        (b"\x0f\0\0\0\0\0\0\0\x03", b"\x0e\0\0\0\0\0\0\0\x03", "not the triangles"),
    ):
        path.write_bytes(whole)
        changed(path, before, after)
        with pytest.raises(ImatrixError, match=message):
            load_second_moments(path)
    write(path, 1, aliases={"a": "unknown"})
    with pytest.raises(ImatrixError, match="same inputs is not clear"):
        load_second_moments(path)


@pytest.mark.parametrize(("index", "value"), [(1, np.nan), (4, np.inf), (2, -1.0)])
def test_values_that_cannot_be_second_moments(tmp_path: Path, index: int, value: float) -> None:
    data = random_data(1)
    name = "blk.0.ffn_up_exps.weight"
    data[name][0][1, index] = value
    with MomentsWriter(tmp_path / "a", content()) as writer:
        for tensor, (sums, counts) in data.items():
            writer.write(tensor, 0, sums)
            writer.finish({tensor: counts})
        writer.commit()
    entry = load_second_moments(tmp_path / "a").entry(name)
    assert entry is not None
    entry.sums(0)
    with pytest.raises(ImatrixError, match="cannot be second moments"):
        entry.sums(1)


def test_a_full_disk_keeps_what_was_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    name = "blk.0.attn_q.weight"
    for finishes in (True, False):
        path = tmp_path / f"{finishes}"
        left = "what was finished is kept" if finishes else "nothing was left there"
        with pytest.raises(OutputError, match=left), MomentsWriter(path, content()) as writer:
            if finishes:
                writer.finish({name: np.ones(1, np.int64)})
            monkeypatch.setattr(OutputFile, "_write_some", full)
            writer.write(name, 0, np.ones((1, 10), np.float32))
        monkeypatch.undo()
        assert path.with_name(f"{finishes}.partial").exists() == finishes
