"""Collecting: invariants, layer 0 by hand, resuming, coverage, errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from support.language import write_text

import apex
from apex import _core
from apex.calibration import (
    CalibrationProgress,
    CollectOptions,
    Text,
    built_in_text,
    read_texts,
    runner,
)
from apex.calibration.automatic import expected_matrix
from apex.errors import DataError, OutputError, RunError, UsageError
from apex.files import ImportanceMatrix, load_imatrix
from apex.inference import Batch, RunOptions, load_model, make_context

pytestmark = pytest.mark.xdist_group("collect")

LENGTH = 64
SMALL = RunOptions(context_length=LENGTH, batch_size=4 * LENGTH)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    write_text(path, 1600)
    return path


@pytest.fixture(scope="module")
def collected(
    demo_model: Path, text: Path, tmp_path_factory: pytest.TempPathFactory
) -> ImportanceMatrix:
    path = tmp_path_factory.mktemp("collected") / "imatrix.gguf"
    apex.calibrate(
        demo_model, path, read_texts([text]), options=CollectOptions(run=SMALL, chunks=8)
    )
    return load_imatrix(path)


def test_every_matrix_and_every_token_is_counted(
    collected: ImportanceMatrix, demo_model: Path
) -> None:
    tokens = 8 * LENGTH
    for tensor in apex.open_model(demo_model).tensors:
        # The gate of the shared expert is a matrix of one row.
        is_matrix = len(tensor.shape) > 1 or "ffn_gate_inp_shexp" in tensor.name
        is_matrix = is_matrix and tensor.name.startswith("blk.")
        if not is_matrix or "conv1d" in tensor.name:
            assert tensor.name not in collected.entries
            continue
        entry = collected.entries[tensor.name]
        assert entry.size == tensor.columns * tensor.experts
        if tensor.experts > 1:
            assert entry.counts.sum() == 2 * tokens  # two of 16 experts a token
            assert len(entry.counts) == 16
        else:
            assert entry.counts.tolist() == [tokens]


def test_layer_0_by_hand(collected: ImportanceMatrix, demo_model: Path, text: Path) -> None:
    """What goes into the first layer, and into the head, follows from embedding and norms."""
    weights = {tensor.name: tensor.data for tensor in gguf.GGUFReader(demo_model).tensors}
    model = _core.Model(str(demo_model))
    tokens = model.tokenize(read_texts([text])[0].content)[: 8 * LENGTH]
    embedded = weights["token_embd.weight"][tokens].astype(np.float64)
    normed = embedded / np.sqrt((embedded**2).mean(axis=1, keepdims=True) + 1e-6)

    def sums(norm: str) -> np.ndarray:
        return ((normed * weights[norm]) ** 2).sum(axis=0)

    entry = collected.entries["blk.0.attn_qkv.weight"]
    np.testing.assert_allclose(entry.sums[0], sums("blk.0.attn_norm.weight"), rtol=1e-4)
    head = collected.entries["blk.8.nextn.eh_proj.weight"]
    assert head.counts.tolist() == [8 * LENGTH]
    expected = sums("blk.8.nextn.enorm.weight")
    np.testing.assert_allclose(head.sums[0][:256], expected, rtol=1e-4)
    # The other half is a normed hidden state, all zeros for the first token of a chunk.
    squares = head.sums[0][256:] / weights["blk.8.nextn.hnorm.weight"] ** 2
    assert squares.sum() == pytest.approx(256 * (8 * LENGTH - 8), rel=1e-3)


def test_without_the_head(demo_model: Path, text: Path, tmp_path: Path) -> None:
    apex.calibrate(
        demo_model,
        tmp_path / "a.gguf",
        read_texts([text]),
        options=CollectOptions(run=SMALL, chunks=2, mtp=False, output_matrix=True),
    )
    entries = load_imatrix(tmp_path / "a.gguf").entries
    assert not [name for name in entries if name.startswith("blk.8.")]
    assert "output.weight" in entries


def test_a_run_that_was_stopped_goes_on(demo_model: Path, text: Path, tmp_path: Path) -> None:
    """After the last whole group of chunks, though no checkpoint was due; with the same bytes."""
    options = CollectOptions(run=SMALL, chunks=14, save_every=100)
    texts = (*read_texts([text]), Text("second", b"Another text, with other words. " * 60, 2.0))
    whole = tmp_path / "whole.gguf"
    apex.calibrate(demo_model, whole, texts, options=options)
    stopped = tmp_path / "stopped.gguf"
    checkpoint = tmp_path / "stopped.gguf.checkpoint"
    saved = []

    def stop(progress: CalibrationProgress) -> None:
        saved.append(progress.chunks_saved)
        if progress.chunks_done == 12 and not progress.chunks_saved:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apex.calibrate(demo_model, stopped, texts, options=options, progress=stop)
    assert checkpoint.exists() and not stopped.exists()
    assert saved == [0, 0, 0, 0, 12]  # before the first group, after three, after the checkpoint
    other = CollectOptions(run=SMALL, chunks=13, save_every=4)
    result = apex.calibrate(demo_model, tmp_path / "other.gguf", texts, options=other)
    assert result.resumed_chunks == 0
    result = apex.calibrate(demo_model, stopped, texts, options=options)
    assert result.resumed_chunks == 12
    assert any("went on after 12 chunks" in note for note in result.notes)
    assert stopped.read_bytes() == whole.read_bytes()
    assert not checkpoint.exists()


def test_a_group_that_was_cut_is_not_saved(
    language_model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt comes while the accumulator holds half of a chunk."""
    run = RunOptions(context_length=LENGTH, batch_size=LENGTH // 2)
    options = CollectOptions(run=run, chunks=4)
    texts = read_texts([text])
    whole, stopped = tmp_path / "whole.gguf", tmp_path / "stopped.gguf"
    apex.calibrate(language_model, whole, texts, options=options)
    run_batch, batches_run = runner.Runner._run_batch, []

    def stop(self: Any, batch: Batch, *contexts: Any) -> None:
        run_batch(self, batch, *contexts)
        batches_run.append(batch)
        if len(batches_run) == 5:  # of two a chunk
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(runner.Runner, "_run_batch", stop)
        with pytest.raises(KeyboardInterrupt):
            apex.calibrate(language_model, stopped, texts, options=options)
    result = apex.calibrate(language_model, stopped, texts, options=options)
    assert result.resumed_chunks == 2
    assert stopped.read_bytes() == whole.read_bytes()


def test_a_run_that_was_stopped_at_once_leaves_nothing(
    language_model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner.Runner, "_run_batch", stop)
    with pytest.raises(KeyboardInterrupt):
        apex.calibrate(
            language_model,
            tmp_path / "a.gguf",
            read_texts([text]),
            options=CollectOptions(run=SMALL, chunks=4),
        )
    assert list(tmp_path.iterdir()) == []


def test_how_long_it_will_take_is_said_before(
    language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From two batches that add nothing to the sums."""
    run = RunOptions(context_length=16, batch_size=256, micro_batch_size=16)
    texts = [Text("text", built_in_text("prose")[:6000].encode())]
    counts = []
    for chunks in (32, 64):
        steps: list[CalibrationProgress] = []
        apex.calibrate(
            language_model,
            tmp_path / f"{chunks}.gguf",
            texts,
            options=CollectOptions(run=run, chunks=chunks),
            progress=steps.append,
        )
        counts.append(load_imatrix(tmp_path / f"{chunks}.gguf").chunk_count)
        first, *others = steps
        assert (first.chunks_done, first.chunks) == (0, chunks)
        assert (first.seconds_left is not None and first.seconds_left > 0) == (chunks == 64)
        assert [step.seconds_left > 0 for step in others] == [True] * (len(others) - 1) + [False]
    assert counts == [32, 64]


@pytest.mark.parametrize("is_input", ["model", "text", "checkpoint", "matrix"])
def test_an_output_is_never_an_input(
    language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_input: str
) -> None:
    model, text, matrix = (tmp_path / name for name in ("m.gguf", "t.txt", "i.gguf"))
    model.write_bytes(language_model.read_bytes())
    write_text(text, 1600)
    accumulator = apex.ImportanceAccumulator()
    accumulator.add("blk.0.attn_q.weight", np.ones((4, 8), np.float32))
    accumulator.save(matrix)
    output = {"model": model, "text": text, "matrix": matrix}.get(is_input, tmp_path / "o")
    if is_input == "checkpoint":
        text.rename(tmp_path / "o.checkpoint")
        text = tmp_path / "o.checkpoint"
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OutputError, match="is the input itself"):
        apex.calibrate(model, output, read_texts([text]), continue_from=[matrix], overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_checkpoint_of_another_run_is_not_used(
    demo_model: Path, text: Path, tmp_path: Path
) -> None:
    options = CollectOptions(run=SMALL, chunks=4)
    checkpoint = tmp_path / "a.gguf.checkpoint"
    for content in (b"", b"GGUF damaged"):
        checkpoint.write_bytes(content)
        path = tmp_path / "a.gguf"
        result = apex.calibrate(
            demo_model, path, read_texts([text]), options=options, overwrite=True
        )
        assert result.resumed_chunks == 0
        assert any("was not used" in note for note in result.notes)


def test_a_checkpoint_of_other_processors_is_not_used(
    demo_model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = CollectOptions(run=SMALL, chunks=8, save_every=4)
    path = tmp_path / "a.gguf"

    def stop(progress: CalibrationProgress) -> None:
        if progress.chunks_done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apex.calibrate(demo_model, path, read_texts([text]), options=options, progress=stop)
    # As if there were a GPU.
    monkeypatch.setattr(runner, "load_model", lambda path, **_: load_model(path, mtp=True))
    monkeypatch.setattr(
        runner,
        "make_context",
        lambda file, model, run, **rest: make_context(
            file, model, replace(run, gpu_layers=0), **rest
        ),
    )
    on_gpu = replace(options, run=replace(SMALL, gpu_layers=2))
    result = apex.calibrate(demo_model, path, read_texts([text]), options=on_gpu)
    assert result.resumed_chunks == 0
    assert any("was not used" in note for note in result.notes)


def test_continuing_is_adding(demo_model: Path, text: Path, tmp_path: Path) -> None:
    texts = read_texts([text])
    for name, options, before in (
        ("whole", CollectOptions(run=SMALL, chunks=8), ()),
        ("first", CollectOptions(run=SMALL, chunks=4), ()),
        ("second", CollectOptions(run=SMALL, chunks=4, skip_chunks=4), ("first",)),
    ):
        apex.calibrate(
            demo_model,
            tmp_path / f"{name}.gguf",
            texts,
            options=options,
            continue_from=[tmp_path / f"{part}.gguf" for part in before],
        )
    whole, second = (load_imatrix(tmp_path / f"{name}.gguf") for name in ("whole", "second"))
    assert set(whole.entries) == set(second.entries)
    for name, entry in whole.entries.items():
        assert np.array_equal(entry.sums, second.entries[name].sums), name
        assert np.array_equal(entry.counts, second.entries[name].counts), name
    assert second.datasets == (str(text), str(text))


def test_until_coverage(demo_model: Path, text: Path, tmp_path: Path) -> None:
    options = CollectOptions(run=SMALL, until_coverage=0.5, min_tokens=4)
    result = apex.calibrate(demo_model, tmp_path / "a.gguf", read_texts([text]), options=options)
    assert result.coverage is not None
    assert result.coverage.share >= 0.5
    assert result.chunks == 4
    options = CollectOptions(run=SMALL, chunks=4, until_coverage=1, min_tokens=10**6)
    result = apex.calibrate(demo_model, tmp_path / "b.gguf", read_texts([text]), options=options)
    assert result.chunks == 4
    assert any("ended at a coverage of 0.0000" in note for note in result.notes)


def test_without_texts_the_built_in_set_is_used(demo_model: Path, tmp_path: Path) -> None:
    options = CollectOptions(run=SMALL, chunks=16)
    result = apex.calibrate(demo_model, tmp_path / "a.gguf", options=options)
    assert all(name.startswith("apex:") for name in result.text_chunks)
    assert set(result.text_chunks.values()) == {2}


def test_the_expected_matrix_is_the_one_that_comes(
    collected: ImportanceMatrix, demo_model: Path
) -> None:
    expected = expected_matrix(apex.open_model(demo_model))
    for name, entry in collected.entries.items():
        assert expected.entries[name].size == entry.size
    plans = [
        apex.plan(demo_model, tier="mini", imatrix=matrix, edge_layers=1, near_layers=1)
        for matrix in (expected, collected)
    ]
    assert [t.type for t in plans[0].tensors] == [t.type for t in plans[1].tensors]


def test_what_goes_wrong(demo_model: Path, dense_model: Path, text: Path, tmp_path: Path) -> None:
    texts = read_texts([text])
    target = tmp_path / "a.gguf"
    long = RunOptions(context_length=4096)
    huge = RunOptions(context_length=2**27, batch_size=2**27)
    cases = (
        (demo_model, CollectOptions(run=long), UsageError, "and a chunk takes 4096"),
        (dense_model, CollectOptions(run=SMALL), RunError, "cannot load the model"),
        (tmp_path / "none.gguf", CollectOptions(run=SMALL), apex.ModelFileError, "none.gguf"),
    )
    for model, options, error, message in cases:
        with pytest.raises(error, match=message):
            apex.calibrate(model, target, texts, options=options)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RunError, match="GiB beside the model"):
        apex.inference.make_context(*apex.inference.load_model(demo_model), huge, sequences=1)
    target.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists"):
        apex.calibrate(demo_model, target, texts)
    for wrong in ({"until_coverage": 0.0}, {"until_coverage": 1.5}, {"chunks": 0}):
        with pytest.raises(UsageError):
            CollectOptions(**wrong)
    for wrong in ({"context_length": 0}, {"cache_type_k": "Q9_Z"}):
        with pytest.raises(UsageError):
            RunOptions(**wrong)


def test_a_damaged_model(language_model: Path, text: Path, tmp_path: Path) -> None:
    """Weights that are not numbers make activations that are none."""
    data = bytearray(language_model.read_bytes())
    model = apex.open_model(language_model)
    place = model.offsets["blk.0.attn_output.weight"]
    data[place : place + 2] = b"\xff\x7f"
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(data)
    with pytest.raises(DataError, match="not finite"):
        apex.calibrate(
            broken, tmp_path / "a.gguf", read_texts([text]), options=CollectOptions(run=SMALL)
        )
    assert not (tmp_path / "a.gguf").exists()
