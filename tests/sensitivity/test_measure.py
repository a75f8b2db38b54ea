"""Measuring a model: what is found, what is refused, and that a stopped run loses nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import moments
from support.language import next_logits, write_language_model

import apex
from apex import _core
from apex.calibration import Text
from apex.errors import DataError, ImatrixError, OutputError, RunError, UsageError
from apex.files import load_imatrix, load_second_moments
from apex.inference import Divergences, RunOptions
from apex.inference import resident as residence
from apex.planning import PlanOptions
from apex.sensitivity import Sensitivity, load_sensitivity
from apex.sensitivity.anchors import ANCHOR_BITS
from apex.sensitivity.chunks import select_chunks
from apex.sensitivity.measuring import measure, sensitivity_path
from apex.sensitivity.options import MeasureOptions, MeasureProgress
from apex.sensitivity.pace import Pace
from apex.sources import open_model

LENGTH = 16
RUN = RunOptions(context_length=LENGTH, batch_size=3 * LENGTH, threads=1)
OPTIONS = MeasureOptions(RUN, chunks=3, levels=("Q3_K", "Q6_K"), detail="kind")
TEXTS = (
    Text("animals", b"The quick brown fox jumps over the lazy dog, and the dog sleeps. " * 3),
    Text("numbers", b"One and two are three; three and four are seven, not eight or nine. " * 3),
)
GROUPS = 12  # five in each of two layers, the embedding and the output


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a measurement that nothing stopped."""
    path = tmp_path_factory.mktemp("whole") / "whole.json"
    measure(tiny_model, path, texts=TEXTS, options=OPTIONS)
    return path


def probes(sensitivity: Sensitivity) -> list[tuple[str, str]]:
    return [(group.name, probe.type) for group in sensitivity.groups for probe in group.probes]


def test_what_is_measured(tiny_model: Path, tmp_path: Path, whole: Path) -> None:
    steps: list[MeasureProgress] = []
    path = tmp_path / "a.json"
    result = measure(tiny_model, path, texts=TEXTS, options=OPTIONS, progress=steps.append)
    assert path.read_bytes() == whole.read_bytes()
    found = load_sensitivity(path)
    assert found == result.sensitivity
    assert found.is_complete and result.notes == ()
    assert (result.probes, result.resumed) == (2 * GROUPS, 0)
    assert result.tokens == (2 * GROUPS + 1 + len(ANCHOR_BITS)) * 3 * LENGTH
    assert found.text.names == ("animals", "numbers")
    assert (found.text.chunks, found.text.positions) == (3, 3 * LENGTH // 2)
    assert found.resident_type == "F16" and found.imatrix == ""
    assert len(found.groups) == GROUPS
    for group in found.groups:
        assert [probe.type for probe in group.probes] == ["Q3_K", "Q6_K"]  # from the harshest
        assert group.probes[0].distance > 2 * group.probes[1].distance
        assert group.probes[0].distance == pytest.approx(
            sum(found.errors[name]["Q3_K"] for name in group.tensors), rel=1e-4
        )
        assert group.probes[0].kl > 0 and group.probes[0].error > 0
    assert [step.stage for step in steps if step.done == 0] == ["errors", "reference", "probes"]
    last = steps[-1]
    assert (last.done, last.total) == (2 * GROUPS, 2 * GROUPS)
    assert last.seconds_left is not None and last.seconds_left > 0
    assert (last.cost.groups, last.cost.probes, last.cost.chunks) == (GROUPS, 2 * GROUPS, 3)
    assert last.cost.tokens == result.tokens
    assert list(tmp_path.iterdir()) == [path]  # no checkpoint is left


def test_a_probe_is_what_a_file_would_show(tiny_model: Path, tmp_path: Path, whole: Path) -> None:
    """Every chunk is run alone, from a file in which only the group is quantized."""
    model = _core.Model(str(tiny_model))
    found = load_sensitivity(whole)
    parts = [model.tokenize(text.content) for text in TEXTS]
    everything = {
        np.ascontiguousarray(part[start : start + LENGTH]).tobytes()
        for part in parts
        for start in range(0, len(part) - LENGTH + 1, LENGTH)
    }
    caught: list[np.ndarray] = []
    original = Divergences.__init__

    def catch(self: Divergences, resident: Any, chunks: np.ndarray, progress: Any = None) -> None:
        caught.append(chunks)
        original(self, resident, chunks, progress)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Divergences, "__init__", catch)
        measure(tiny_model, tmp_path / "b.json", texts=TEXTS, options=OPTIONS)
    (chunks,) = caught
    assert len(chunks) == 3
    assert all(chunk.tobytes() in everything for chunk in chunks)
    group = next(group for group in found.groups if group.name == "layer 1, dense gate, up")
    types = {each.name: each.type for each in open_model(tiny_model).tensors if each.type == "F16"}
    types |= dict.fromkeys(group.tensors, "Q3_K")
    file = tmp_path / "quantized.gguf"
    apex.quantize(apex.plan(tiny_model, file_type="Q8_0", types=types), file)
    changed, means = _core.Model(str(file)), []
    for chunk in chunks:
        tokens = chunk.copy()
        tokens[0] = model.bos
        p, q = (log_softmax(next_logits(each, tokens))[LENGTH // 2 :] for each in (model, changed))
        means.append((np.exp(p) * (p - q)).sum(axis=1).mean())
    probe = group.probes[0]
    assert probe.kl == pytest.approx(np.mean(means), rel=0.01)
    assert probe.error == pytest.approx(np.std(means, ddof=1) / np.sqrt(3), rel=0.02)


def test_with_compensated_rounding(tiny_model: Path, tmp_path: Path) -> None:
    """Errors and probes are of compensated tensors, and no other measurement is gone on from."""
    paths = moments.write_data(tiny_model, tmp_path)
    matrix, second_moments = load_imatrix(paths[0]), load_second_moments(paths[1])
    path, plain = tmp_path / "a.json", OPTIONS
    own = replace(OPTIONS, rounding="compensated", second_moments=paths[1])

    def stop(step: MeasureProgress) -> None:
        if step.stage == "probes" and step.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(tiny_model, path, matrix, TEXTS, options=plain, progress=stop)
    result = measure(tiny_model, path, matrix, TEXTS, options=own)
    assert result.notes == ("a.json.checkpoint was left by another measurement and was not used",)
    found = load_sensitivity(path)
    assert (found.rounding, found.second_moments) == ("compensated", second_moments.digest)
    reference = measure(tiny_model, tmp_path / "b.json", matrix, TEXTS, options=plain).sensitivity
    assert (reference.rounding, reference.second_moments) == ("reference", "")
    value, output = "blk.0.attn_v.weight", "blk.0.attn_output.weight"
    assert found.errors[value]["Q6_K"] == reference.errors[value]["Q6_K"]
    assert found.errors[output]["Q3_K"] < 0.9 * reference.errors[output]["Q3_K"]
    probe, other = (
        next(group for group in each.groups if group.tensors == (output,)).probes[0]
        for each in (found, reference)
    )
    # What the file of such a plan would show; all else is as it was.
    options: PlanOptions = {
        "imatrix": matrix, "rounding": "compensated", "second_moments": second_moments
    }  # fmt: skip
    types = {each.name: each.type for each in open_model(tiny_model).tensors if each.type == "F16"}
    file = tmp_path / "quantized.gguf"
    changed = apex.plan(tiny_model, file_type="Q8_0", types={**types, output: "Q3_K"}, **options)
    apex.quantize(changed, file)
    resident = residence.ResidentModel(open_model(tiny_model), RUN)
    written = residence.ResidentModel(open_model(file), RUN)
    chunks = select_chunks(resident.model, TEXTS, LENGTH, 3, 0).probing
    divergences = Divergences(resident, chunks)
    divergences._resident = written
    assert probe.kl == pytest.approx(divergences.measure().mean(), rel=0.01)
    assert abs(other.kl - probe.kl) > 0.02 * probe.kl


def test_compensated_rounding_needs_second_moments(tiny_model: Path, tmp_path: Path) -> None:
    matrix_path, path = moments.write_data(tiny_model, tmp_path)
    matrix, output = load_imatrix(matrix_path), tmp_path / "a.json"
    for given, message in (
        (replace(OPTIONS, rounding="compensated"), "needs second moments"),
        (replace(OPTIONS, second_moments=path), "do nothing where the rounding is reference"),
        (replace(OPTIONS, rounding="up"), "There is no rounding up"),
    ):
        with pytest.raises(UsageError, match=message):
            measure(tiny_model, output, matrix, TEXTS, options=given)
    with pytest.raises(ImatrixError, match="needs an importance matrix"):
        measure(tiny_model, output, None, TEXTS, options=replace(OPTIONS, rounding="unshrunk"))
    assert not output.exists()


def log_softmax(logits: np.ndarray) -> np.ndarray:
    values = logits.astype(np.float64)
    values -= values.max(axis=-1, keepdims=True)
    return values - np.log(np.exp(values).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("stop_at", [1, 2, 14])
def test_an_interrupt_in_a_probe_loses_only_that_probe(
    tiny_model: Path, tmp_path: Path, whole: Path, stop_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are given back, what was measured is saved, and the same call goes on."""
    path, checkpoint = tmp_path / "a.json", tmp_path / "a.json.checkpoint"
    original, calls, models = Divergences.measure, [0], []

    def interrupt(self: Divergences, *arguments: Any) -> Any:
        calls[0] += 1
        models.append(self._resident)
        if calls[0] == stop_at:
            raise KeyboardInterrupt
        return original(self, *arguments)

    steps: list[MeasureProgress] = []
    with monkeypatch.context() as patched:
        patched.setattr(Divergences, "measure", interrupt)
        with pytest.raises(KeyboardInterrupt):
            measure(tiny_model, path, texts=TEXTS, options=OPTIONS, progress=steps.append)
    for tensor in models[0].file.tensors:
        data = np.empty(tensor.bytes, np.uint8)
        models[0].file.read(tensor, 0, data.data)
        assert models[0]._weights.type(tensor.name) == tensor.type
        assert np.array_equal(models[0]._weights.read(tensor.name), data)
    assert checkpoint.exists() and not path.exists()
    assert not load_sensitivity(checkpoint).is_complete
    assert len(probes(load_sensitivity(checkpoint))) == steps[-1].saved == stop_at - 1
    result = measure(tiny_model, path, texts=TEXTS, options=OPTIONS)
    assert (result.resumed, result.probes) == (stop_at - 1, 2 * GROUPS)
    noun = "probe" if stop_at == 2 else "probes"
    assert result.notes == (f"went on after {stop_at - 1} {noun} of a.json.checkpoint",)
    assert path.read_bytes() == whole.read_bytes()
    assert not checkpoint.exists()


def test_an_interrupt_before_the_errors_are_known_leaves_nothing(
    tiny_model: Path, tmp_path: Path
) -> None:
    def stop(step: MeasureProgress) -> None:
        assert step.stage == "errors"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(tiny_model, tmp_path / "a.json", texts=TEXTS, options=OPTIONS, progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["other levels", "another text", "damage"])
def test_a_foreign_checkpoint_is_not_used(
    tiny_model: Path, tmp_path: Path, whole: Path, what: str
) -> None:
    path, checkpoint = tmp_path / "a.json", tmp_path / "a.json.checkpoint"
    texts = TEXTS[:1] if what == "another text" else TEXTS
    levels = ("Q4_K",) if what == "other levels" else OPTIONS.levels

    def stop(step: MeasureProgress) -> None:
        if step.stage == "probes" and step.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        options = replace(OPTIONS, levels=levels)
        measure(tiny_model, path, texts=texts, options=options, progress=stop)
    if what == "damage":
        checkpoint.write_text(checkpoint.read_text().replace('"kl"', '"KL"', 1))
    result = measure(tiny_model, path, texts=TEXTS, options=OPTIONS)
    assert result.resumed == 0
    assert result.notes == ("a.json.checkpoint was left by another measurement and was not used",)
    assert path.read_bytes() == whole.read_bytes()


# Time


def test_too_little_time_for_anything(tiny_model: Path, tmp_path: Path, whole: Path) -> None:
    """The errors stay, and with --overwrite the same call goes on, over all chunks."""
    path = tmp_path / "a.json"
    options = replace(OPTIONS, seconds=1e-6)
    result = measure(tiny_model, path, texts=TEXTS, options=options)
    assert result.probes == 0 and not result.sensitivity.is_complete
    assert result.sensitivity.text.chunks == 1
    assert result.notes == (
        "each probe ran over 1 of 3 chunks, for which the time sufficed",
        "the time was up after 0 of 24 probes; the same command with --overwrite makes the others",
    )
    with pytest.raises(OutputError):
        measure(tiny_model, path, texts=TEXTS, options=OPTIONS)
    again = measure(tiny_model, path, texts=TEXTS, options=OPTIONS, overwrite=True)
    assert again.notes == ("went on after 0 probes of a.json",)
    assert path.read_bytes() == whole.read_bytes()


def test_fewer_chunks_where_the_time_is_short(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All probes of a file run over the same chunks, also after it was stopped."""
    monkeypatch.setattr(Pace, "chunks_for", lambda *_: 2)
    options = replace(OPTIONS, seconds=1000.0)
    path, stopped = tmp_path / "a.json", tmp_path / "b.json"
    result = measure(tiny_model, path, texts=TEXTS, options=options)
    assert result.notes == ("each probe ran over 2 of 3 chunks, for which the time sufficed",)
    found = result.sensitivity
    assert found.is_complete
    assert (found.text.chunks, found.text.positions) == (2, LENGTH)
    assert result.tokens == 3 * LENGTH + (2 * GROUPS + len(ANCHOR_BITS)) * 2 * LENGTH
    with monkeypatch.context() as patched:
        patched.setattr(Pace, "is_late", lambda self: self._made == 5)
        result = measure(tiny_model, stopped, texts=TEXTS, options=options)
    assert result.probes == 5 and not result.sensitivity.is_complete
    assert result.notes[1].startswith("the time was up after 5 of 24 probes")
    monkeypatch.setattr(Pace, "chunks_for", lambda *_: 3)  # there is more time now
    result = measure(tiny_model, stopped, texts=TEXTS, options=options, overwrite=True)
    assert result.notes == (
        "went on after 5 probes of b.json",
        "the probes run over 2 of 3 chunks, as those that were there",
    )
    assert stopped.read_bytes() == path.read_bytes()
    full = measure(tiny_model, tmp_path / "c.json", texts=TEXTS, options=OPTIONS).sensitivity
    assert full.text.digest != found.text.digest
    assert full.groups[0].probes[0].kl != found.groups[0].probes[0].kl


def test_a_complete_file_is_measured_anew(tiny_model: Path, tmp_path: Path, whole: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(whole.read_bytes())
    options = replace(OPTIONS, seconds=1e-6)
    result = measure(tiny_model, path, texts=TEXTS, options=options, overwrite=True)
    assert result.resumed == result.probes == 0


# Models


def test_without_importance_some_types_are_left_out(tiny_model: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, levels=("Q3_K", "IQ2_S"), chunks=1)
    found = measure(tiny_model, tmp_path / "a.json", texts=TEXTS, options=options).sensitivity
    for group in found.groups:
        assert [probe.type for probe in group.probes] == ["Q2_K", "Q3_K"]
        assert all(probe.error == 0 for probe in group.probes)  # of one chunk
    for errors in found.errors.values():
        assert "IQ2_S" not in errors and "IQ3_XXS" not in errors
        assert errors["IQ3_S"] > errors["IQ4_XS"] > errors["Q8_0"] > 0


def test_rows_that_only_blocks_of_32_fit(tmp_path: Path) -> None:
    """Both levels would be IQ4_NL; the second is then something with a smaller error."""
    model = tmp_path / "narrow.gguf"
    write_language_model(model, size=400, width=96)
    options = replace(OPTIONS, levels=("IQ3_S", "Q2_K"), chunks=1)
    found = measure(model, tmp_path / "a.json", texts=TEXTS, options=options).sensitivity
    assert found.is_complete
    for group in found.groups:
        harsh, mild = group.probes
        assert (harsh.type, mild.type) == ("IQ4_NL", "Q5_0"), group.name
        assert 2 * mild.distance <= harsh.distance


def test_a_level_that_says_nothing_new_is_not_run_again(tiny_model: Path, tmp_path: Path) -> None:
    """A Q8_0 file has room for nothing that is much better than Q8_0."""
    path = tmp_path / "q8.gguf"
    apex.quantize(tiny_model, path, file_type="Q8_0")
    options = replace(OPTIONS, levels=("Q8_0", "Q6_K", "Q5_1"), resident=path, chunks=1)
    result = measure(tiny_model, tmp_path / "a.json", texts=TEXTS, options=options)
    found = result.sensitivity
    assert found.is_complete and found.resident_type == "Q8_0"
    for group in found.groups:
        assert [probe.type for probe in group.probes][-1] == "Q8_0"
        assert all(
            first.distance >= last.distance
            for first, last in zip(group.probes, group.probes[1:], strict=False)
        )
        assert abs(group.probes[-1].kl) < 1e-5  # that is what is resident


def test_the_head_is_not_probed(demo_model: Path, tmp_path: Path) -> None:
    """The trunk never runs it. Everything else would be."""
    options = MeasureOptions(RUN, chunks=1, levels=("Q3_K",), seconds=1e-6, sample=4096)
    steps: list[MeasureProgress] = []
    path = tmp_path / "a.json"
    result = measure(demo_model, path, texts=TEXTS, options=options, progress=steps.append)
    kinds = {group.name: group.kind for group in result.sensitivity.groups}
    assert kinds["layer 8, multi-token prediction"] == "multi-token prediction"
    assert steps[0].cost.groups == len(kinds) - 1
    assert "blk.8.ffn_down_exps.weight" in result.sensitivity.errors


# What is refused, before any work


def refused(model: Path, folder: Path, options: MeasureOptions) -> str:
    def progress(step: MeasureProgress) -> None:
        raise AssertionError(step)

    with pytest.raises(UsageError) as error:
        measure(model, folder / "a.json", texts=TEXTS, options=options, progress=progress)
    assert not (folder / "a.json").exists()
    return error.value.message


def test_a_level_for_which_there_is_no_room(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "q4.gguf"
    apex.quantize(tiny_model, path, file_type="Q4_0", pure=True)
    message = refused(tiny_model, tmp_path, replace(OPTIONS, resident=path))
    assert message == (
        "token_embd.weight is Q4_0 in q4.gguf, which has no room for the level Q6_K."
    )
    message = refused(path, tmp_path, OPTIONS)  # the model itself
    assert message.endswith("is Q4_0 in q4.gguf, which has no room for the level Q6_K.")


@pytest.mark.parametrize("what", ["shape", "weights"])
def test_another_model_as_resident(tiny_model: Path, tmp_path: Path, what: str) -> None:
    path = tmp_path / "other.gguf"
    write_language_model(path, size=400 if what == "weights" else 401, seed=8)
    message = refused(tiny_model, tmp_path, replace(OPTIONS, resident=path))
    assert message == f"{path} is not a file of the same model as {tiny_model}."


def test_texts_that_are_too_short(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No text has a chunk of 16 tokens"):
        measure(tiny_model, tmp_path / "a.json", texts=[Text("a", b"a")], options=OPTIONS)


def test_outputs_are_checked(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(tiny_model.read_bytes())
    with pytest.raises(OutputError):
        measure(model, model, texts=TEXTS, options=OPTIONS, overwrite=True)
    assert model.read_bytes() == tiny_model.read_bytes()
    assert sensitivity_path(open_model(model)) == tmp_path / "model.sensitivity.json"


def test_too_little_memory(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residence, "available_memory", lambda: 1000)
    with pytest.raises(RunError, match="of memory are free"):
        measure(tiny_model, tmp_path / "a.json", texts=TEXTS, options=OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "nan.gguf"
    model.write_bytes(tiny_model.read_bytes())
    file = open_model(model)
    with model.open("r+b") as stream:  # in the middle, where no sample is taken
        stream.seek(file.offsets["blk.1.ffn_up.weight"] + 2 * 256 * 100)
        stream.write(b"\x00\x7e")
    with pytest.raises(DataError, match=r"blk\.1\.ffn_up\.weight"):
        measure(model, tmp_path / "a.json", texts=TEXTS, options=OPTIONS)
    assert list(tmp_path.iterdir()) == [model]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunks": 0}, "at least 1"),
        ({"sample": -1}, "must not be negative"),
        ({"seconds": 0.0}, "more than nothing"),
        ({"levels": ()}, "At least one level"),
        ({"levels": ("Q9_K",)}, "There is no level Q9_K"),
        ({"levels": ("IQ1_S",)}, "There is no level IQ1_S"),
        ({"levels": ("Q3_K", "Q3_K")}, "given twice"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MeasureOptions(**options)


@pytest.mark.slow
def test_a_trained_model(shared_model: Path, tmp_path: Path) -> None:
    """Output and embedding deserve the most bits of what was learned, as trials have shown."""
    run = RunOptions(context_length=64, batch_size=64)
    options = MeasureOptions(run, chunks=1, levels=("Q2_K",), detail="kind", sample=1 << 16)
    found = measure(shared_model, tmp_path / "a.json", options=options).sensitivity
    assert found.is_complete
    harsh = {group.name: group.probes[0] for group in found.groups if group.probes}
    middle = [probe.kl for name, probe in harsh.items() if name.endswith("shared experts")]
    assert harsh["output"].kl > 3 * np.median(middle)
