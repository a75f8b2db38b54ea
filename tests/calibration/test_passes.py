"""Collecting second moments: against the importance matrix, by hand, in passes, after a stop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from support.language import write_text

import apex
from apex import _core
from apex.calibration import CalibrationProgress, CollectOptions, Text, read_texts
from apex.errors import DataError, OutputError, RunError, UsageError
from apex.files import load_imatrix, load_second_moments, merge_second_moments
from apex.inference import RunOptions

pytestmark = pytest.mark.xdist_group("collect")

LENGTH, CHUNKS = 64, 8
OPTIONS = CollectOptions(
    run=RunOptions(context_length=LENGTH, batch_size=4 * LENGTH), chunks=CHUNKS
)
# Enough for the largest tensor of the demo, its 16 experts, but not for a layer.
FEW = _core.Moments.bytes(256, 16)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Text, ...]:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    write_text(path, 1600)
    return read_texts([path])


@pytest.fixture(scope="module")
def folder(
    demo_model: Path, texts: tuple[Text, ...], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """With what one pass collects: ``imatrix`` and ``moments``."""
    folder = tmp_path_factory.mktemp("collected")
    result = apex.calibrate(
        demo_model, folder / "imatrix", texts, options=OPTIONS, second_moments=folder / "moments"
    )
    assert result.second_moments is not None
    assert result.second_moments.passes == 1
    assert result.second_moments.bytes == (folder / "moments").stat().st_size
    return folder


def test_the_importance_matrix_is_the_same(
    demo_model: Path, texts: tuple[Text, ...], folder: Path, tmp_path: Path
) -> None:
    apex.calibrate(demo_model, tmp_path / "alone", texts, options=OPTIONS)
    assert (tmp_path / "alone").read_bytes() == (folder / "imatrix").read_bytes()


def test_the_diagonal_is_the_importance_matrix(folder: Path) -> None:
    """Bit for bit: of every tensor, dense, routed or of the head, the sums have the same order."""
    moments = load_second_moments(folder / "moments")
    matrix = load_imatrix(folder / "imatrix")
    assert set(moments.names) == {*matrix.entries, "output.weight", "token_embd.weight"}
    assert moments.aliases["blk.0.ffn_up_exps.weight"] == "blk.0.ffn_gate_exps.weight"
    assert any(name.startswith("blk.8.") for name in moments.own_names)
    for name, squares in matrix.entries.items():
        entry = moments.entry(name)
        assert entry is not None
        index = np.arange(entry.columns)
        diagonal = index * (index + 3) // 2
        for number in range(entry.matrices):
            assert np.array_equal(entry.sums(number)[diagonal], squares.sums[number]), name
        assert entry.rows.tolist() == squares.counts.tolist()


def test_of_the_output_matrix(demo_model: Path, texts: tuple[Text, ...], folder: Path) -> None:
    """Its second moments are always there, its importance only where it is asked for."""
    asked = folder / "with-output"
    apex.calibrate(demo_model, asked, texts, options=replace(OPTIONS, output_matrix=True))
    squares = load_imatrix(asked).entries["output.weight"]
    entry = load_second_moments(folder / "moments").entry("output.weight")
    assert entry is not None
    index = np.arange(entry.columns)
    assert np.array_equal(entry.sums(0)[index * (index + 3) // 2], squares.sums[0])
    assert entry.rows.tolist() == squares.counts.tolist()


def test_of_the_embedding(demo_model: Path, folder: Path) -> None:
    """By hand: over the rows of the first layer's matrices that read it, times the norm's gains."""
    weights = {tensor.name: tensor.data for tensor in gguf.GGUFReader(demo_model).tensors}
    readers = {
        "attn_norm": ("attn_qkv", "attn_gate"),
        "post_attention_norm": ("ffn_gate_shexp", "ffn_up_shexp"),
    }
    rows = np.concatenate(
        [
            weights[f"blk.0.{name}.weight"].astype(np.float64) * weights[f"blk.0.{norm}.weight"]
            for norm, names in readers.items()
            for name in names
        ]
    )
    moments = load_second_moments(folder / "moments")
    assert moments.of_weights == ("token_embd.weight",)
    entry = moments.entry("token_embd.weight")
    assert entry is not None
    assert entry.rows.tolist() == [len(rows)]
    expected = (rows.T @ rows)[np.tril_indices(entry.columns)]
    np.testing.assert_allclose(entry.sums(0), expected, rtol=1e-3, atol=1e-5 * expected.max())


def test_a_broken_weight_that_reads_the_embedding(
    demo_model: Path, texts: tuple[Text, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(demo_model.read_bytes())
    reader = gguf.GGUFReader(broken, "r+")
    (tensor,) = (t for t in reader.tensors if t.name == "blk.0.ffn_up_shexp.weight")
    tensor.data[3, 5] = np.nan
    reader.data.flush()
    with pytest.raises(DataError, match=r"A weight of blk.0.ffn_up_shexp.weight, or"):
        apex.calibrate(broken, folder / "i", texts, options=OPTIONS, second_moments=folder / "m")
    assert not list(folder.iterdir())


def test_layer_0_by_hand(demo_model: Path, texts: tuple[Text, ...], folder: Path) -> None:
    weights = {tensor.name: tensor.data for tensor in gguf.GGUFReader(demo_model).tensors}
    tokens = _core.Model(str(demo_model)).tokenize(texts[0].content)[: CHUNKS * LENGTH]
    rows = weights["token_embd.weight"][tokens].astype(np.float64)
    rows = rows / np.sqrt((rows**2).mean(axis=1, keepdims=True) + 1e-6)
    rows = rows * weights["blk.0.attn_norm.weight"]
    entry = load_second_moments(folder / "moments").entry("blk.0.attn_qkv.weight")
    assert entry is not None
    expected = (rows.T @ rows)[np.tril_indices(entry.columns)]
    np.testing.assert_allclose(entry.sums(0), expected, rtol=1e-3, atol=1e-3 * expected.max())


def test_passes_give_the_same_file(
    demo_model: Path, texts: tuple[Text, ...], folder: Path, tmp_path: Path
) -> None:
    steps: list[CalibrationProgress] = []
    apex.calibrate(
        demo_model,
        tmp_path / "imatrix",
        texts,
        options=OPTIONS,
        second_moments=tmp_path / "moments",
        max_memory=2 * FEW,
        progress=steps.append,
    )
    plan = steps[0].second_moments
    assert plan is not None
    assert plan.passes > 4
    assert [step.chunks for step in steps] == [plan.passes * CHUNKS] * len(steps)
    assert [step.chunks_done for step in steps] == list(range(0, plan.passes * CHUNKS + 1, 4))
    for name in ("imatrix", "moments"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_passes_carry_what_layers_remember(
    demo_model: Path, texts: tuple[Text, ...], tmp_path: Path
) -> None:
    """Chunks are computed in halves, and where a pass ends, so does the model."""
    run = RunOptions(context_length=LENGTH, batch_size=LENGTH, micro_batch_size=LENGTH // 2)
    for index, memory in enumerate((None, FEW)):
        apex.calibrate(
            demo_model,
            tmp_path / f"imatrix{index}",
            texts,
            options=replace(OPTIONS, run=run, chunks=2),
            second_moments=tmp_path / f"moments{index}",
            max_memory=memory,
        )
    assert (tmp_path / "moments0").read_bytes() == (tmp_path / "moments1").read_bytes()


@pytest.mark.parametrize("stopped_after", [12, -4])
def test_finished_passes_are_not_repeated(
    demo_model: Path, texts: tuple[Text, ...], folder: Path, tmp_path: Path, stopped_after: int
) -> None:
    """Stopped in the second pass, or in the last, of which the squares have a checkpoint."""
    done: list[tuple[int, int]] = []
    imatrix, moments = tmp_path / "imatrix", tmp_path / "moments"

    def stop(step: CalibrationProgress) -> None:
        done.append((step.chunks_done, step.chunks))
        if step.chunks_done == stopped_after % step.chunks:
            raise KeyboardInterrupt

    def run(report: object = done.append) -> None:
        apex.calibrate(
            demo_model,
            imatrix,
            texts,
            options=OPTIONS,
            second_moments=moments,
            max_memory=4 * FEW,
            progress=report,  # type: ignore[arg-type]
        )

    with pytest.raises(KeyboardInterrupt):
        run(stop)
    assert not imatrix.exists() and not moments.exists()
    passes = done[0][1] // CHUNKS
    steps: list[CalibrationProgress] = []
    run(steps.append)
    # One pass is done, or all but one, which the squares do not share then.
    assert steps[0].chunks == ((passes - 1) if stopped_after > 0 else 2) * CHUNKS
    for path in (imatrix, moments):
        assert path.read_bytes() == (folder / path.name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["imatrix", "moments"]


def test_other_texts_begin_anew(demo_model: Path, texts: tuple[Text, ...], tmp_path: Path) -> None:
    def stop(step: CalibrationProgress) -> None:
        if step.chunks_done > CHUNKS:
            raise KeyboardInterrupt

    def run(skip: int, name: str, report: object = None) -> None:
        apex.calibrate(
            demo_model,
            tmp_path / "imatrix",
            texts,
            options=replace(OPTIONS, skip_chunks=skip),
            second_moments=tmp_path / name,
            max_memory=8 * FEW,
            overwrite=True,
            progress=report,  # type: ignore[arg-type]
        )

    with pytest.raises(KeyboardInterrupt):
        run(0, "moments", stop)
    run(1, "moments")
    run(1, "again")
    assert (tmp_path / "moments").read_bytes() == (tmp_path / "again").read_bytes()


def test_the_halves_of_a_text_add_up(
    demo_model: Path, texts: tuple[Text, ...], folder: Path, tmp_path: Path
) -> None:
    for index in range(2):
        apex.calibrate(
            demo_model,
            tmp_path / f"imatrix{index}",
            texts,
            options=replace(OPTIONS, chunks=CHUNKS // 2, skip_chunks=index * CHUNKS // 2),
            second_moments=tmp_path / f"moments{index}",
        )
    merge_second_moments([tmp_path / "moments0", tmp_path / "moments1"], tmp_path / "both")
    both, whole = (load_second_moments(path) for path in (tmp_path / "both", folder / "moments"))
    assert both.chunk_count == whole.chunk_count == CHUNKS
    for name in whole.own_names:
        part, entry = both.entry(name), whole.entry(name)
        assert part is not None and entry is not None
        assert part.rows.tolist() == entry.rows.tolist()
        pooled, expected = part.pooled()[0], entry.pooled()[0]
        np.testing.assert_allclose(pooled, expected, rtol=1e-3, atol=1e-5 * expected.max())


def test_a_dense_model(language_model: Path, texts: tuple[Text, ...], tmp_path: Path) -> None:
    options = replace(OPTIONS, chunks=2, output_matrix=True)
    apex.calibrate(
        language_model, tmp_path / "i", texts, options=options, second_moments=tmp_path / "m"
    )
    moments = load_second_moments(tmp_path / "m")
    entries = load_imatrix(tmp_path / "i").entries
    assert set(moments.names) == {*entries, "token_embd.weight"}
    assert "output.weight" in moments.own_names
    assert moments.aliases["blk.1.attn_v.weight"] == moments.aliases["blk.1.attn_k.weight"]


def test_what_cannot_be_collected(
    demo_model: Path, texts: tuple[Text, ...], tmp_path: Path
) -> None:
    output, moments = tmp_path / "i", tmp_path / "m"
    with pytest.raises(RunError, match="GiB are allowed"):
        apex.calibrate(
            demo_model, output, texts, options=OPTIONS, second_moments=moments, max_memory=1 << 20
        )
    with pytest.raises(UsageError, match="known beforehand"):
        apex.calibrate(
            demo_model,
            output,
            texts,
            options=replace(OPTIONS, until_coverage=0.5),
            second_moments=moments,
        )
    with pytest.raises(OutputError, match="two outputs"):
        apex.calibrate(demo_model, output, texts, options=OPTIONS, second_moments=output)
    assert not list(tmp_path.iterdir())
