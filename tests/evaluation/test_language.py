"""Perplexity, divergence and the head, against logits in plain double arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.language import next_logits, write_hellaswag, write_text

import apex
from apex import _core
from apex.errors import OutputError, RunError, UsageError
from apex.evaluation import EvalOptions, EvalProgress, Evaluator, SpeedOptions, language
from apex.evaluation.base_file import open_base_file
from apex.inference import RunOptions
from apex.sources import gguf

LENGTH = 64
RUN = RunOptions(context_length=LENGTH, batch_size=4 * LENGTH)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    write_text(path, 1500)
    return path


@pytest.fixture(scope="module")
def quantized(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantized") / "q.gguf"
    apex.quantize(demo_model, path, tier="compact", edge_layers=1, near_layers=1)
    return path


def log_probabilities(path: Path, tokens: np.ndarray) -> np.ndarray:
    logits = next_logits(_core.Model(str(path)), tokens).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("batch_size", [4 * LENGTH, LENGTH, LENGTH // 4])
def test_against_double_arithmetic(
    demo_model: Path, quantized: Path, text: Path, batch_size: int
) -> None:
    """Chunks side by side, alone, and cut into batches: always the same, but for low digits."""
    run = RunOptions(context_length=LENGTH, batch_size=batch_size)
    evaluator = Evaluator(
        [quantized], EvalOptions(run=run, text=text, chunks=6, mtp=True), reference=demo_model
    )
    evaluator.run()
    tokens = _core.Model(str(demo_model)).tokenize(text.read_bytes().removesuffix(b"\n"))
    nll, kl, same = [], [], []
    for chunk in tokens[: 6 * LENGTH].reshape(6, LENGTH):
        p, q = (log_probabilities(path, chunk) for path in (demo_model, quantized))
        for position in range(LENGTH // 2, LENGTH - 1):
            nll.append(-q[position, chunk[position + 1]])
            kl.append((np.exp(p[position]) * (p[position] - q[position])).sum())
            same.append(p[position].argmax() == q[position].argmax())
    result = evaluator.models[0]
    assert result.perplexity is not None and result.divergence is not None
    assert result.perplexity.positions == len(nll) == 6 * 31
    assert result.perplexity.ppl.value == pytest.approx(np.exp(np.mean(nll)), rel=1e-3)
    assert result.divergence.kl.value == pytest.approx(np.mean(kl), rel=0.02)
    assert result.divergence.same_top.value == pytest.approx(np.mean(same), abs=0.02)
    assert result.mtp_agreement is not None
    assert 0 <= result.mtp_agreement.value < 1


def test_a_model_is_no_way_from_itself(demo_model: Path, text: Path) -> None:
    evaluator = Evaluator([demo_model], EvalOptions(run=RUN, text=text), reference=demo_model)
    evaluator.run()
    divergence = evaluator.models[0].divergence
    assert divergence is not None
    assert divergence.same_top.value == 1
    assert divergence.kl.value == pytest.approx(0, abs=1e-6)
    assert evaluator.models[0].perplexity == evaluator.reference.perplexity


def test_a_trained_head_agrees_with_its_trunk(shared_model: Path, text: Path) -> None:
    """Far more often than chance: it sees the hidden states that it was trained on."""
    evaluator = Evaluator([shared_model], EvalOptions(text=text, mtp=True, run=RUN))
    evaluator.run()
    (result,) = evaluator.models
    assert result.mtp_agreement is not None and result.mtp_perplexity is not None
    assert result.mtp_agreement.value > 0.2
    assert result.mtp_perplexity.ppl.value < 600


def test_the_cache_can_be_compressed(demo_model: Path, text: Path) -> None:
    run = RunOptions(
        context_length=LENGTH, batch_size=4 * LENGTH, cache_type_k="Q4_0", cache_type_v="Q4_0"
    )
    plain, compressed = (
        Evaluator([demo_model], EvalOptions(run=options, text=text)) for options in (RUN, run)
    )
    plain.run()
    compressed.run()
    values = [e.models[0].perplexity.ppl.value for e in (plain, compressed)]
    assert values[0] != values[1]
    assert values[0] == pytest.approx(values[1], rel=0.1)


def test_base_files(demo_model: Path, quantized: Path, text: Path, tmp_path: Path) -> None:
    path = tmp_path / "base.kld"
    options = EvalOptions(run=RUN, text=text, chunks=4)
    writer = Evaluator([], options, reference=demo_model, write_base=path)
    writer.run()
    base = open_base_file(path)
    assert base.chunks.shape == (4, LENGTH)
    assert base.codes.shape == (4, LENGTH - 1 - LENGTH // 2, 512 + 4)
    direct = Evaluator([quantized], options, reference=demo_model)
    by_file = Evaluator([quantized], EvalOptions(run=RunOptions(batch_size=4 * LENGTH)), base=path)
    for evaluator in (direct, by_file):
        evaluator.run()
    assert direct.models[0].divergence == by_file.models[0].divergence
    assert by_file.to_dict()["settings"]["context_length"] == LENGTH

    data = path.read_bytes()
    for content, message in (
        (b"", "cannot be read"),
        (b"something else that is long enough", "does not hold log-probabilities"),
        (data[:-2], "truncated"),
        (data[:12] + b"\xff\xff\xff\xff" + data[16:], "damaged"),
        (data[:20] + b"\xff\xff\xff\x7f" + data[24:], "out of range"),
    ):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=message):
            Evaluator([quantized], EvalOptions(), base=path)


def test_a_stopped_evaluation_knows_what_it_did(
    demo_model: Path, quantized: Path, text: Path, tmp_path: Path
) -> None:
    evaluator = Evaluator(
        [quantized],
        EvalOptions(run=RUN, text=text, chunks=12),
        reference=demo_model,
        write_base=tmp_path / "base.kld",
    )

    def stop(progress: EvalProgress) -> None:
        if progress.done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluator.run(stop)
    data = evaluator.to_dict()
    assert data["complete"] is False
    assert data["settings"]["chunks"] == 8
    assert data["models"][1]["perplexity"]["chunks"] == 8
    assert data["models"][1]["divergence"]["positions"] == 8 * 31
    assert list(tmp_path.iterdir()) == []  # half a base file would be taken for a whole one


def test_statistics_are_taken_once(
    demo_model: Path, quantized: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many groups of chunks there are; and every header is read once."""
    run = RunOptions(context_length=LENGTH, batch_size=LENGTH)
    calls: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls[name] += 1
            return function(*arguments)

        return call

    for name in ("perplexity_of", "divergence_of"):
        monkeypatch.setattr(language, name, counted(name, getattr(language, name)))
    monkeypatch.setattr(gguf, "_read_header", counted("headers", gguf._read_header))
    options = EvalOptions(run=run, text=text, chunks=8, speed=SpeedOptions(8, 2, 1))
    evaluator = Evaluator([quantized], options, reference=demo_model)
    estimates = []
    evaluator.run(lambda step: estimates.append(step.estimate) if step.stage == "text" else None)
    assert calls == {"perplexity_of": 2, "divergence_of": 1, "headers": 2}
    result = evaluator.models[0]
    assert result.perplexity is not None and result.divergence is not None
    ppl, kl = result.perplexity.ppl.value, result.divergence.kl.value
    assert estimates[0] == "" and "KL" not in estimates[3] and "KL" in estimates[4]
    assert estimates[-1] == f"{result.name}: PPL {ppl:.3f}, KL {kl:.5f}"


def test_many_short_chunks(demo_model: Path, tmp_path: Path) -> None:
    """More than libllama runs side by side."""
    text = tmp_path / "text.txt"
    write_text(text, 2500)
    run = RunOptions(context_length=4)
    assert run.sequences == _core.max_sequences() < 2048 // 4
    evaluator = Evaluator([demo_model], EvalOptions(run=run, text=text, chunks=300))
    evaluator.run()
    result = evaluator.models[0].perplexity
    assert result is not None and (result.chunks, result.positions) == (300, 300)


@pytest.mark.parametrize("is_input", ["model", "reference", "text", "tasks"])
def test_a_base_file_is_never_an_input(demo_model: Path, tmp_path: Path, is_input: str) -> None:
    model, reference, text, tasks = (tmp_path / name for name in ("m", "r", "t", "h"))
    for path in (model, reference):
        path.write_bytes(demo_model.read_bytes())
    write_text(text, 1500)
    write_hellaswag(tasks, 2)
    files = {"model": model, "reference": reference, "text": text, "tasks": tasks}
    (tmp_path / "link").symlink_to(files[is_input])
    for output in (files[is_input], tmp_path / "link"):
        with pytest.raises(OutputError, match="is the input itself"):
            Evaluator(
                [model],
                EvalOptions(run=RUN, text=text, tasks=[("hellaswag", tasks, None)]),
                reference=reference,
                write_base=output,
            )


def test_what_goes_wrong(
    demo_model: Path, language_model: Path, quantized: Path, text: Path, tmp_path: Path
) -> None:
    options = EvalOptions(run=RUN, text=text)
    with pytest.raises(RunError, match="different vocabularies, from token"):
        Evaluator([language_model], options, reference=demo_model).run()
    base = tmp_path / "base.kld"
    Evaluator([], options, reference=demo_model, write_base=base).run()
    with pytest.raises(RunError, match="a vocabulary of 512 tokens"):
        Evaluator([language_model], EvalOptions(), base=base).run()
    long = EvalOptions(run=RunOptions(context_length=4096), text=text)
    with pytest.raises(UsageError, match="a context of 4096 needs 8192"):
        Evaluator([demo_model], long).run()
    with pytest.raises(apex.ModelFileError, match=r"none\.gguf"):
        Evaluator([tmp_path / "none.gguf"], options)
    for arguments, message in (
        (([], EvalOptions(text=text)), "nothing to compare"),
        (([quantized], EvalOptions()), "Nothing was asked for"),
        (([quantized], EvalOptions(text=tmp_path / "none.txt")), "cannot be read"),
        (([quantized], EvalOptions(text=text, tensor_errors=True)), "with a reference"),
    ):
        with pytest.raises(UsageError, match=message):
            Evaluator(*arguments)
    for keys, message in (
        ({"reference": demo_model, "base": base}, "not both"),
        ({"write_base": base}, "of a reference"),
    ):
        with pytest.raises(UsageError, match=message):
            Evaluator([quantized], options, **keys)
    with pytest.raises(UsageError, match="Nothing was asked for"):
        Evaluator([quantized], EvalOptions(), reference=demo_model)
    with pytest.raises(UsageError, match="lines"):
        Evaluator([quantized], EvalOptions(tasks=[("hellaswag", text, None)]))
    locked = tmp_path / "file"
    locked.write_text("not a folder")
    with pytest.raises(OutputError):
        Evaluator([], options, reference=demo_model, write_base=locked / "base.kld").run()


def test_everything_in_one_result(demo_model: Path, quantized: Path, text: Path) -> None:
    evaluator = Evaluator(
        [quantized],
        EvalOptions(run=RUN, text=text, chunks=4, speed=SpeedOptions(32, 4, 2), tensor_errors=True),
        reference=demo_model,
    )
    stages = []
    evaluator.run(lambda progress: stages.append(progress.stage))
    assert {"text", "speed, pp32", "speed, tg4", "tensor errors", "file hash"} <= set(stages)
    data = evaluator.to_dict()
    assert data["complete"] is True
    reference, model = data["models"]
    assert reference["is_reference"] and not model["is_reference"]
    assert model["speed"]["pp32"]["value"] > 0 and model["speed"]["tg4"]["value"] > 0
    assert len(model["sha256"]["q.gguf"]) == 64
    expert = next(t for t in model["tensors"] if t["name"] == "blk.4.ffn_down_exps.weight")
    assert (expert["layer"], expert["role"], expert["type"]) == (4, "routed expert", "Q3_K")
    assert 0.05 < expert["rmse"] < 0.5
    assert data["peak_memory_bytes"] > 0
