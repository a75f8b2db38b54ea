"""A resident model computes as one that was loaded from a file with the same tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import apex
from apex import _core
from apex.errors import RunError
from apex.evaluation import EvalOptions, Evaluator
from apex.inference import Divergences, ResidentModel, RunOptions, resident
from apex.sources import open_model

RUN = RunOptions(context_length=32, batch_size=64, threads=1)


def logits_of(model: ResidentModel, tokens: np.ndarray) -> np.ndarray:
    """float32 (tokens, vocabulary) of a text that is run alone."""
    context, places = model.context, np.arange(len(tokens), dtype=np.int32)
    context.clear()
    context.decode(tokens, places, np.zeros_like(places), np.ones(len(tokens), bool))
    return context.logits()


def log_softmax(logits: np.ndarray) -> np.ndarray:
    values = logits.astype(np.float64)
    values -= values.max(axis=-1, keepdims=True)
    return values - np.log(np.exp(values).sum(axis=-1, keepdims=True))


def chunks(count: int, vocabulary: int) -> np.ndarray:
    random = np.random.default_rng(3)
    return random.integers(3, vocabulary, (count, RUN.context_length), dtype=np.int32)


def write_with(model: Path, path: Path, name: str, type_name: str) -> None:
    """A file of the model in which one tensor is of another type."""
    types = {each.name: each.type for each in open_model(model).tensors if each.type == "F16"}
    types[name] = type_name
    apex.quantize(apex.plan(model, file_type="Q8_0", types=types), path)
    changed = {each.name for each in open_model(path).tensors if each.type == type_name}
    assert changed == {name}


def quantized_bytes(path: Path, name: str) -> np.ndarray:
    file = open_model(path)
    tensor = next(tensor for tensor in file.tensors if tensor.name == name)
    data = np.empty(tensor.bytes, np.uint8)
    file.read(tensor, 0, data.data)
    return data


@pytest.mark.parametrize(
    ("name", "type_name"),
    [
        ("token_embd.weight", "Q3_K"),
        ("blk.0.attn_v.weight", "IQ4_XS"),
        ("blk.1.ffn_down.weight", "Q4_0"),
        ("output.weight", "Q6_K"),
    ],
)
def test_a_replaced_tensor_is_that_of_a_file(
    tiny_model: Path, tmp_path: Path, name: str, type_name: str
) -> None:
    """Bit for bit, and back again."""
    path = tmp_path / "quantized.gguf"
    write_with(tiny_model, path, name, type_name)
    model, file = (ResidentModel(open_model(each), RUN) for each in (tiny_model, path))
    (tokens,) = chunks(1, model.model.vocabulary_size)
    before = logits_of(model, tokens)
    model.replace(name, type_name, quantized_bytes(path, name))
    assert np.array_equal(logits_of(model, tokens), logits_of(file, tokens))
    assert not np.array_equal(logits_of(model, tokens), before)
    model.restore()
    assert np.array_equal(logits_of(model, tokens), before)


def test_experts_can_be_replaced(demo_model: Path, tmp_path: Path) -> None:
    name, path = "blk.3.ffn_down_exps.weight", tmp_path / "quantized.gguf"
    write_with(demo_model, path, name, "Q2_K")
    model, file = (ResidentModel(open_model(each), RUN) for each in (demo_model, path))
    (tokens,) = chunks(1, model.model.vocabulary_size)
    before = logits_of(model, tokens)
    model.replace(name, "Q2_K", quantized_bytes(path, name))
    assert np.array_equal(logits_of(model, tokens), logits_of(file, tokens))
    model.restore()
    assert np.array_equal(logits_of(model, tokens), before)


def test_there_is_no_room_for_more_than_the_file_has(tiny_model: Path, tmp_path: Path) -> None:
    path, name = tmp_path / "small.gguf", "blk.0.attn_q.weight"
    apex.quantize(tiny_model, path, file_type="Q4_0")
    model = ResidentModel(open_model(path), RUN)
    assert model.room(name) == 256 * 256 // 32 * 18
    with pytest.raises(ValueError, match="at most"):
        model.replace(name, "Q8_0", np.zeros(256 * 256 // 32 * 34, np.uint8))
    model.restore()


def test_divergences_are_those_of_the_logits(tiny_model: Path) -> None:
    """Over the second half of each chunk, of all chunks or of the first."""
    model = ResidentModel(open_model(tiny_model), RUN)
    tokens = chunks(3, model.model.vocabulary_size)
    counts: list[int] = []
    divergences = Divergences(model, tokens, counts.append)
    assert divergences.is_exact
    assert counts == [2, 3]
    assert np.abs(divergences.measure()).max() < 1e-6
    tokens[:, 0] = model.model.bos  # as it is run
    before = [log_softmax(logits_of(model, chunk)) for chunk in tokens]
    name = "blk.1.ffn_up.weight"
    tensor = next(tensor for tensor in model.file.tensors if tensor.name == name)
    rows = np.zeros(tensor.bytes, np.uint8)
    model.replace(name, "F16", rows)
    after = [log_softmax(logits_of(model, chunk)) for chunk in tokens]
    expected = np.array(
        [(np.exp(p) * (p - q)).sum(axis=1)[16:] for p, q in zip(before, after, strict=True)]
    )
    measured = divergences.measure()
    assert measured.shape == (3, 16)
    assert measured == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert divergences.measure(1) == pytest.approx(expected[:1], rel=1e-3, abs=1e-6)
    model.restore()


def test_divergences_are_those_of_eval(tiny_model: Path, tmp_path: Path) -> None:
    """Which leaves out the last position, because nothing follows it in the text."""
    text, path = tmp_path / "text.txt", tmp_path / "quantized.gguf"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 60)
    name = "blk.0.ffn_gate.weight"
    write_with(tiny_model, path, name, "Q2_K")
    evaluator = Evaluator([path], EvalOptions(run=RUN, text=text, chunks=16), reference=tiny_model)
    evaluator.run()
    result = evaluator.models[0].divergence
    assert result is not None
    model = ResidentModel(open_model(tiny_model), RUN)
    tokens = model.model.tokenize(text.read_bytes())[: 16 * 32].reshape(16, 32)
    divergences = Divergences(model, tokens)
    model.replace(name, "Q2_K", quantized_bytes(path, name))
    values = divergences.measure()[:, :-1]
    assert values.mean() == pytest.approx(result.kl.value, rel=1e-3)
    assert values.max() == pytest.approx(result.kl_percentiles["maximum"], rel=1e-3)


@pytest.mark.parametrize("top", [0, 1, 7, 399, 400, 1000])
def test_a_reference_keeps_what_is_likely(tiny_model: Path, top: int) -> None:
    """The divergence of the distributions over the kept tokens and all others together."""
    model = ResidentModel(open_model(tiny_model), RUN)
    size = model.model.vocabulary_size
    first, second = chunks(2, size)
    reference = _core.Reference(size, top)
    rows = np.arange(32)
    p = log_softmax(logits_of(model, first))
    reference.add(model.context, rows, 1)
    assert reference.rows == 32
    assert np.abs(reference.diverge(0, model.context, rows, 1)).max() < 1e-6
    q = log_softmax(logits_of(model, second))
    expected = []
    for row in rows:
        order = np.argsort(-p[row], kind="stable")
        if 0 < top < size:
            coarse = [
                np.append(np.exp(each[row][order[:top]]), np.exp(each[row][order[top:]]).sum())
                for each in (p, q)
            ]
        else:
            coarse = [np.exp(each[row]) for each in (p, q)]
        expected.append((coarse[0] * np.log(coarse[0] / coarse[1])).sum())
    found = reference.diverge(0, model.context, rows, 1)
    assert found == pytest.approx(np.array(expected), rel=1e-4, abs=1e-6)
    part = reference.diverge(5, model.context, rows[5:9], 1)
    assert np.array_equal(part, found[5:9])
    assert _core.Reference.row_bytes(size, top) == (top * 8 + 8 if 0 < top < size else size * 4)


def test_where_memory_is_short_the_likely_tokens_are_kept(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ResidentModel(open_model(tiny_model), RUN)
    tokens = chunks(2, model.model.vocabulary_size)
    whole = Divergences(model, tokens)
    monkeypatch.setattr(resident, "available_memory", lambda: 4 * 32 * 400 * 4 // 4)
    coarse = Divergences(model, tokens)
    assert whole.is_exact and not coarse.is_exact
    name = "blk.1.attn_output.weight"
    model.replace(name, "F16", np.zeros(model.room(name), np.uint8))
    exact, less = whole.measure(), coarse.measure()
    assert (less <= exact + 1e-6).all() and less.mean() > 0.5 * exact.mean()


def test_a_model_that_does_not_fit_into_memory(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "available_memory", lambda: 1000)
    with pytest.raises(RunError, match=r"GiB of weights, and 0\.0 GiB of memory are free") as error:
        ResidentModel(open_model(tiny_model), RUN)
    assert "--resident" in error.value.hint


def test_probabilities_that_are_not_finite(tiny_model: Path) -> None:
    model = ResidentModel(open_model(tiny_model), RUN)
    divergences = Divergences(model, chunks(1, model.model.vocabulary_size))
    name = "output.weight"
    weights = np.full(model.room(name) // 2, np.nan, np.float16)
    model.replace(name, "F16", weights.view(np.uint8))
    with pytest.raises(RunError, match="not finite"):
        divergences.measure()
    model.restore()
    assert np.abs(divergences.measure()).max() < 1e-6
