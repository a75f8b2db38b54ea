"""What is measured of a plan is what a file of it would do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import moments
from support.imatrix import write_gguf
from support.language import write_language_model
from support.sensitivities import sensitivity_of

import apex
from apex.calibration import Text
from apex.errors import RunError, UsageError
from apex.evaluation import EvalOptions, Evaluator
from apex.files import load_imatrix, load_second_moments
from apex.fitting import judging
from apex.fitting.judging import Judge, Judged, difference
from apex.inference import ResidentModel, RunOptions, resident
from apex.planning import Plan
from apex.sensitivity import Sensitivity
from apex.sensitivity.measuring import measure
from apex.sensitivity.options import MeasureOptions
from apex.sources import open_model

LENGTH = 32
RUN = RunOptions(context_length=LENGTH, batch_size=2 * LENGTH, threads=1)
TEXT = Text(
    "fox", b"".join(b"The quick brown fox jumps over %d lazy dogs. " % n for n in range(12))
)


@pytest.fixture(scope="module")
def sensitivity(tiny_model: Path) -> Sensitivity:
    """Of which no chunk was measured over, so that a judge runs over the text from its start."""
    return with_chunks(sensitivity_of(tiny_model), 0)


@pytest.fixture(scope="module")
def judge(tiny_model: Path, sensitivity: Sensitivity) -> Judge:
    return Judge(open_model(tiny_model), None, sensitivity, [TEXT], RUN, chunks=1000)


def with_chunks(sensitivity: Sensitivity, count: int) -> Sensitivity:
    return replace(sensitivity, settings={"chunks": count})


def mixed(model: Path) -> Plan:
    rules = ["attn_q=q6_k", "blk.1.ffn_up=q8_0", "attn_v=f16", "ffn_down=iq4_xs"]
    return apex.plan(model, file_type="Q4_K_M", tensor_types=rules, output_tensor_type="Q5_0")


@contextmanager
def running(judge: Judge, model: ResidentModel) -> Iterator[None]:
    """Within it, another model is compared with what the judge's said unchanged."""
    own = judge._divergences._resident
    judge._divergences._resident = model
    try:
        yield
    finally:
        judge._divergences._resident = own


def logits_of(model: ResidentModel, tokens: np.ndarray) -> np.ndarray:
    context, places = model.context, np.arange(len(tokens), dtype=np.int32)
    context.clear()
    context.decode(tokens, places, np.zeros_like(places), np.ones(len(tokens), bool))
    return context.logits()


def check_against_a_file(judge: Judge, plan: Plan, path: Path) -> Judged:
    """What is measured of the plan is what its file says, bit for bit."""
    apex.quantize(plan, path)
    written = ResidentModel(open_model(path), RUN)
    tokens = judge._divergences.chunks[0]
    with judge.session():
        judged = judge.measure_plan(plan)
        assert np.array_equal(logits_of(judge._resident, tokens), logits_of(written, tokens))
    with running(judge, written):
        assert np.array_equal(judge._divergences.measure(), judged.values)
    return judged


def test_a_plan_is_measured_as_eval_measures_its_file(
    tiny_model: Path, judge: Judge, tmp_path: Path
) -> None:
    """Which leaves out the last position, and goes by probabilities of 16 bits."""
    path, text = tmp_path / "file.gguf", tmp_path / "text.txt"
    judged = check_against_a_file(judge, mixed(tiny_model), path)
    text.write_bytes(TEXT.content)
    evaluator = Evaluator([path], EvalOptions(run=RUN, text=text), reference=tiny_model)
    evaluator.run()
    found = evaluator.models[0].divergence
    assert found is not None and found.positions == judge.chunks * (LENGTH // 2 - 1)
    values = judged.values[:, :-1]
    assert values.mean() == pytest.approx(found.kl.value, rel=5e-4)
    assert values.max() == pytest.approx(found.kl_percentiles["maximum"], rel=1e-3)


def test_with_importance(tiny_model: Path, sensitivity: Sensitivity, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    entries = {
        tensor.name: (
            random.lognormal(size=(1, tensor.columns)).astype(np.float32),
            np.ones(1, np.float32),
        )
        for tensor in open_model(tiny_model).tensors
        if len(tensor.shape) == 2 and tensor.name != "token_embd.weight"
    }
    write_gguf(tmp_path / "matrix.gguf", entries)
    matrix = load_imatrix(tmp_path / "matrix.gguf")
    judge = Judge(open_model(tiny_model), matrix, sensitivity, [TEXT], RUN, chunks=2)
    plan = apex.plan(tiny_model, file_type="IQ2_S", imatrix=matrix)
    weighted = check_against_a_file(judge, plan, tmp_path / "weighted.gguf")
    kept = apex.plan(tiny_model, file_type="Q4_K_M", imatrix=matrix)
    with judge.session():
        same = judge.measure_plan(kept)
    plain = Judge(open_model(tiny_model), None, sensitivity, [TEXT], RUN, chunks=2)
    with plain.session():
        assert plain.measure_plan(kept).kl != same.kl < weighted.kl


def test_experts_and_a_head_that_is_not_run(demo_model: Path, tmp_path: Path) -> None:
    sensitivity = with_chunks(sensitivity_of(demo_model), 0)
    judge = Judge(open_model(demo_model), None, sensitivity, [TEXT], RUN, chunks=2)
    plan = apex.plan(demo_model, file_type="Q3_K_M")
    check_against_a_file(judge, plan, tmp_path / "file.gguf")


@pytest.mark.parametrize("rounding", ["unshrunk", "compensated"])
@pytest.mark.parametrize("fixture", ["tiny_model", "demo_model"])
def test_with_another_rounding(
    rounding: str, fixture: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """By the objectives of every expert, as the file is made."""
    model: Path = request.getfixturevalue(fixture)
    paths = moments.write_data(model, tmp_path)
    matrix = load_imatrix(paths[0])
    second_moments = load_second_moments(paths[1]) if rounding == "compensated" else None
    sensitivity = with_chunks(sensitivity_of(model), 0)
    judge = Judge(
        open_model(model), matrix, sensitivity, [TEXT], RUN, chunks=1,
        rounding=rounding, second_moments=second_moments,
    )  # fmt: skip
    plan = apex.plan(
        model, file_type="Q3_K_M", imatrix=matrix, rounding=rounding, second_moments=second_moments
    )
    assert sum(tensor.rounding == rounding for tensor in plan.tensors) > 3
    check_against_a_file(judge, plan, tmp_path / "file.gguf")


# Statistics


def test_what_is_found(tiny_model: Path, judge: Judge) -> None:
    with judge.session():
        judged = judge.measure_plan(mixed(tiny_model))
    assert judged.values.shape == (judge.chunks, LENGTH // 2)
    assert judged.kl == pytest.approx(np.mean(judged.values), rel=1e-12)
    means = [np.mean(chunk) for chunk in judged.values]
    assert judged.error == pytest.approx(np.std(means, ddof=1) / np.sqrt(judge.chunks), rel=1e-9)
    assert judged.most == max(judged.values.flat)
    assert judged.values.size < 1000
    assert np.sort(judged.values, axis=None)[-2] < judged.high < judged.most


def test_differences_are_of_the_same_positions() -> None:
    first = np.array([[1.0, 3.0], [5.0, 7.0], [0.0, 2.0]])
    change = np.array([[0.1, 0.3], [0.3, 0.5], [0.6, 0.6]])
    one, other = (judging._judged(values) for values in (first + change, first))
    mean, error = difference(one, other)
    assert mean == pytest.approx(0.4)
    assert error == pytest.approx(0.2 / np.sqrt(3))
    assert difference(other, one)[0] == pytest.approx(-0.4)
    assert difference(judging._judged(first[:1]), judging._judged(change[:1]))[1] == 0.0


# Weights


def test_weights_stay_changed_within_a_session(tiny_model: Path, judge: Judge) -> None:
    tokens = judge._divergences.chunks[0]
    before = logits_of(judge._resident, tokens)
    with judge.session():
        alone = judge.measure({"output.weight": "Q4_0"})
        assert not np.array_equal(logits_of(judge._resident, tokens), before)
        both = judge.measure({"output.weight": "Q4_0", "blk.0.attn_v.weight": "Q3_K"})
        assert both.kl != alone.kl
        again = judge.measure({"output.weight": "Q4_0"})
        assert np.array_equal(again.values, alone.values), "the other was given back"
        assert judge.measure({"output.weight": "Q6_K"}).kl < alone.kl
        assert judge.measure({}).most < 1e-6
        judge.measure({"output.weight": "Q4_0"})
    assert np.array_equal(logits_of(judge._resident, tokens), before)
    with pytest.raises(KeyboardInterrupt), judge.session():
        judge.measure({"output.weight": "Q4_0"})
        raise KeyboardInterrupt
    assert np.array_equal(logits_of(judge._resident, tokens), before)


def test_tensors_that_cannot_be_chosen_are_left(judge: Judge) -> None:
    with judge.session():
        assert judge.measure({"output_norm.weight": "Q4_0", "no.weight": "Q4_0"}).most < 1e-6


def test_halves(tiny_model: Path, judge: Judge) -> None:
    plan = mixed(tiny_model)
    first, second = judge.halves()
    half = judge.chunks // 2
    assert (first.chunks, second.chunks) == (half, judge.chunks - half)
    with judge.session():
        whole = judge.measure_plan(plan).values
        assert np.array_equal(first.measure_plan(plan).values, whole[:half])
        assert np.array_equal(second.measure_plan(plan).values, whole[half:])
        _, third = second.halves()
        assert np.array_equal(third.measure_plan(plan).values, whole[-third.chunks :])
        assert third.chunks == second.chunks - second.chunks // 2
    assert judge._resident._changed == set(), "the halves have the same weights"


def test_one_chunk_has_no_halves(tiny_model: Path, sensitivity: Sensitivity) -> None:
    judge = Judge(open_model(tiny_model), None, sensitivity, [TEXT], RUN, chunks=1)
    with judge.session():
        assert judge.measure({"output.weight": "Q4_0"}).error == 0.0
    with pytest.raises(UsageError, match="takes two chunks"):
        judge.halves()


# Chunks


def chunks_of(model: Path, sensitivity: Sensitivity, count: int) -> list[bytes]:
    steps: list[tuple[int, int]] = []
    judge = Judge(
        open_model(model), None, sensitivity, [TEXT], RUN, chunks=count,
        progress=lambda done, all_: steps.append((done, all_)),
    )  # fmt: skip
    assert steps[-1] == (judge.chunks, judge.chunks)
    return [chunk.tobytes() for chunk in judge._divergences.chunks]


def test_chunks_are_not_those_that_were_measured_over(
    tiny_model: Path, sensitivity: Sensitivity
) -> None:
    every = chunks_of(tiny_model, sensitivity, 1000)
    assert len(set(every)) == len(every) > 8
    apart = chunks_of(tiny_model, with_chunks(sensitivity, 4), 1000)
    assert len(apart) == len(every) - 4
    fewer = chunks_of(tiny_model, with_chunks(sensitivity, 4), 3)
    assert len(fewer) == 3 and set(fewer) <= set(apart)
    # Where not even those that were to be measured over had been run, they are kept apart still.
    text = replace(sensitivity.text, chunks=1)
    stopped = replace(with_chunks(sensitivity, 4), text=text)
    assert chunks_of(tiny_model, stopped, 1000) == apart
    unsaid = replace(sensitivity, settings={}, text=replace(text, chunks=4))
    assert chunks_of(tiny_model, unsaid, 1000) == apart


def test_a_text_that_was_measured_over_as_a_whole(
    tiny_model: Path, sensitivity: Sensitivity
) -> None:
    every = chunks_of(tiny_model, sensitivity, 1000)
    assert chunks_of(tiny_model, with_chunks(sensitivity, 1000), 3) == every


def test_whether_chunks_are_known_to_be_apart(tiny_model: Path, tmp_path: Path) -> None:
    """By the digest of what was measured over, where that was of the same texts."""
    options = MeasureOptions(RUN, chunks=3, levels=("Q3_K",))
    done = measure(tiny_model, tmp_path / "s.json", texts=[TEXT], options=options).sensitivity

    def is_apart(
        sensitivity: Sensitivity, text: Text = TEXT, length: int = LENGTH, chunks: int = 2
    ) -> bool:
        run = replace(RUN, context_length=length)
        return Judge(open_model(tiny_model), None, sensitivity, [text], run, chunks=chunks).is_apart

    assert is_apart(done) and is_apart(done, chunks=1000)
    assert not is_apart(done, length=LENGTH // 2)
    assert not is_apart(with_chunks(done, 4))
    assert not is_apart(with_chunks(done, 1000)), "nothing is left"
    assert is_apart(done, replace(TEXT, name="another"))


# Another file that runs


def test_a_resident_file(tiny_model: Path, sensitivity: Sensitivity, tmp_path: Path) -> None:
    """Its own tensors are the reference; what is quantized is the model."""
    apex.quantize(tiny_model, tmp_path / "q8.gguf", file_type="Q8_0")
    judge = Judge(
        open_model(tiny_model), None, sensitivity, [TEXT], RUN, chunks=2,
        resident=tmp_path / "q8.gguf",
    )  # fmt: skip
    plan = apex.plan(tiny_model, file_type="Q4_0")
    check_against_a_file(judge, plan, tmp_path / "file.gguf")


def test_a_resident_file_without_room(
    tiny_model: Path, sensitivity: Sensitivity, tmp_path: Path
) -> None:
    path = tmp_path / "small.gguf"
    types = {"blk.1.ffn_up.weight": "Q6_K"}
    apex.quantize(apex.plan(tiny_model, file_type="Q8_0", types=types), path)
    judge = Judge(open_model(tiny_model), None, sensitivity, [TEXT], RUN, chunks=2, resident=path)
    with judge.session():
        with pytest.raises(UsageError) as caught:
            judge.measure_plan(apex.plan(tiny_model, file_type="Q8_0"))
        assert caught.value.message == (
            "blk.1.ffn_up.weight is Q6_K in small.gguf, which has no room for Q8_0."
        )
        assert "--resident" in caught.value.hint
        assert judge.measure({}).most < 1e-6


def test_a_resident_file_of_another_model(
    tiny_model: Path, sensitivity: Sensitivity, tmp_path: Path
) -> None:
    for name, size in (("weights", 400), ("shape", 401)):
        write_language_model(tmp_path / name, size=size, seed=8)
        with pytest.raises(UsageError, match="is not a file of the same model"):
            Judge(
                open_model(tiny_model), None, sensitivity, [TEXT], RUN, chunks=2,
                resident=tmp_path / name,
            )  # fmt: skip


def test_too_little_memory(
    tiny_model: Path, sensitivity: Sensitivity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "available_memory", lambda: 1000)
    with pytest.raises(RunError, match="of memory are free"):
        Judge(open_model(tiny_model), None, sensitivity, [TEXT], RUN, chunks=2)
