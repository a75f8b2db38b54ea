"""What was fitted is compared by running the model, before anything is written."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.imatrix import write_gguf
from support.language import write_language_model
from support.sensitivities import write_sensitivity

import apex
from apex import Plan, Wish
from apex.calibration import read_texts
from apex.cli import main
from apex.fitting import Fitter
from apex.fitting.contest import contest
from apex.fitting.judging import Judge, Judged
from apex.inference import ResidentModel, RunOptions, resident
from apex.sources import open_model

ABOVE = ("--like", "Q4_K_M")
TEXT = ("--check-text", "text.txt", "--check-chunks", "2")


class Ended:
    """How a command in this process ended."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def data(self) -> dict[str, Any]:
        assert self.status == 0, self.err
        found: dict[str, Any] = json.loads(self.out)
        return found


Run = Callable[..., Ended]


@pytest.fixture
def run(folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(folder)

    def go(*arguments: str | Path) -> Ended:
        status = main(list(map(str, arguments)))
        ended = Ended(status, *capfd.readouterr())
        assert "Traceback" not in ended.err and "internal error" not in ended.err
        return ended

    return go


@pytest.fixture
def model(tiny_model: Path, folder: Path) -> Path:
    """With a sensitivity beside it, and a text to judge by of about six chunks."""
    shutil.copy(tiny_model, folder / "model.gguf")
    write_sensitivity(folder / "model.sensitivity.json", folder / "model.gguf")
    lines = (f"The quick brown fox jumps over {number} lazy dogs.\n" for number in range(70))
    (folder / "text.txt").write_text("".join(lines))
    return folder / "model.gguf"


def write_weighted(model: Path) -> tuple[Path, Path]:
    """An importance matrix, and a sensitivity that was measured with it."""
    matrix, sensitivity = (model.with_name(name) for name in ("matrix.gguf", "weighted.json"))
    entries = {
        tensor.name: (np.ones((1, tensor.columns), np.float32), np.ones(1, np.float32))
        for tensor in open_model(model).tensors
        if len(tensor.shape) == 2
    }
    write_gguf(matrix, entries)
    write_sensitivity(sensitivity, model, matrix)
    return matrix, sensitivity


@pytest.fixture
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model must not be run."""

    def refuse(self: ResidentModel, *_: object) -> None:
        raise AssertionError("the model is run")

    monkeypatch.setattr(ResidentModel, "__init__", refuse)


def expected(model: Path, chunks: int = 2) -> Any:
    """The comparison, made without the command line."""
    fitter = Fitter(model, model.with_name("model.sensitivity.json"))
    texts = read_texts([str(model.with_name("text.txt"))])
    judge = Judge(fitter.source, None, fitter.sensitivity, texts, RunOptions(), chunks=chunks)
    with judge.session():
        return contest(fitter.fit(Wish(like="Q4_K_M")), judge)


# What is compared and taken


def test_what_is_measured(run: Run, model: Path) -> None:
    result = expected(model)
    shown = run("fit", "model.gguf", *ABOVE, *TEXT, "--json")
    fit = shown.data["fit"]
    assert fit["measured"] == result.to_dict()
    assert {"fit", "Q4_K_M"} <= fit["measured"].keys()
    assert fit["taken"] == (None if result.winner is None else result.winner.name)
    types = {tensor["name"]: tensor["type"] for tensor in shown.data["tensors"]}
    assert types == {tensor.name: tensor.type for tensor in result.best.tensors}


def test_what_is_shown(run: Run, model: Path) -> None:
    result = expected(model)
    shown = run("fit", "model.gguf", *ABOVE, *TEXT)
    assert shown.status == 0, shown.err
    lines = shown.out.splitlines()
    start = next(number for number, line in enumerate(lines) if "chunks that were kept" in line)
    table = lines[start:]
    (own,) = (line for line in table if line.startswith("fitted "))
    (theirs,) = (line for line in table if line.startswith("Q4_K_M, file type"))
    judged = next(judged for rival, judged in result.rivals if rival.name == "Q4_K_M")
    for line, numbers in ((own, result.judged), (theirs, judged)):
        assert f"{numbers.kl:.3g} ± {numbers.error:.1g}" in line
        assert line.split()[-2:] == [f"{numbers.high:.3g}", f"{numbers.most:.3g}"]


def test_quantize_writes_what_measured_best(run: Run, model: Path, folder: Path) -> None:
    result = expected(model)
    made = run("quantize", "model.gguf", "out.gguf", *ABOVE, *TEXT)
    assert made.status == 0, made.err
    assert "Q4_K_M, file type" in made.out
    apex.quantize(result.best, folder / "same.gguf")
    written, same = (folder / name for name in ("out.gguf", "same.gguf"))
    assert written.read_bytes() == same.read_bytes()


@pytest.mark.parametrize("better", ["fit", "Q4_K_M"])
def test_measuring_decides(
    run: Run, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, better: str
) -> None:
    """Whatever is predicted."""
    rival = {tensor.name: tensor.type for tensor in apex.plan(model, file_type="Q4_K_M").tensors}
    measure = Judge.measure_plan

    def say(self: Judge, plan: Plan) -> Judged:
        is_rival = {tensor.name: tensor.type for tensor in plan.tensors} == rival
        return replace(measure(self, plan), kl=0.1 if is_rival == (better != "fit") else 0.2)

    monkeypatch.setattr(Judge, "measure_plan", say)
    data = run("fit", "model.gguf", *ABOVE, *TEXT, "--json").data
    assert data["fit"]["taken"] == (None if better == "fit" else better)
    types = {tensor["name"]: tensor["type"] for tensor in data["tensors"]}
    assert (types == rival) is (better != "fit")
    note = "Q4_K_M is taken as it is, since its measured KL divergence is 0.1"
    assert any(text.startswith(note) for text in data["notes"]) is (better != "fit")
    made = run("quantize", "model.gguf", "out.gguf", *ABOVE, *TEXT)
    assert (f"note: {note}" in made.err) is (better != "fit")
    written = {tensor.name: tensor.type for tensor in open_model(folder / "out.gguf").tensors}
    assert written == types


def test_one_model_for_several_outputs(
    run: Run, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[ResidentModel] = []
    load = ResidentModel.__init__

    def count(self: ResidentModel, *arguments: Any) -> None:
        loaded.append(self)
        load(self, *arguments)

    monkeypatch.setattr(ResidentModel, "__init__", count)
    matrix, sensitivity = write_weighted(model)
    made = run(
        "quantize", "model.gguf", "-o", "out", "--tier", "fit-quality", "--tier", "fit-compact",
        "--tier", "quality", "--imatrix", matrix, "--sensitivity", sensitivity, *TEXT,
    )  # fmt: skip
    assert made.status == 0, made.err
    assert made.out.count("chunks that were kept apart") == 2
    assert len(loaded) == 1
    assert len(list((folder / "out").iterdir())) == 3


# Without running the model


def test_no_check(run: Run, model: Path, folder: Path, no_run: None) -> None:
    shown = run("fit", "model.gguf", *ABOVE, "--no-check", "--json")
    assert shown.data["fit"]["measured"] is None
    found = apex.fit(model, folder / "model.sensitivity.json", Wish(like="Q4_K_M"))
    assert [tensor["type"] for tensor in shown.data["tensors"]] == [
        tensor.type for tensor in found.best.tensors
    ]
    assert "predictions decide" not in shown.err
    assert run("quantize", "model.gguf", "out.gguf", *ABOVE, "--no-check").status == 0


@pytest.mark.parametrize("command", [("fit", "no.gguf"), ("quantize", "no.gguf", "out.gguf")])
def test_refining_measures(run: Run, folder: Path, command: tuple[str, ...]) -> None:
    """Said before the model is looked for."""
    ended = run(*command, *ABOVE, "--no-check", "--refine", "1")
    assert ended.status == 2
    assert "error: --refine measures, and --no-check forbids that\n" in ended.err
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("wish", [("--kl", "0.05"), ("--vram", "2GiB", "--context", "64")])
def test_refining_needs_a_size(run: Run, model: Path, wish: tuple[str, ...]) -> None:
    ended = run("fit", "model.gguf", *wish, "--refine", "1")
    assert ended.status == 2
    assert "no size is given" in ended.err and "running the model" not in ended.err


def test_a_text_that_is_not_there(run: Run, model: Path) -> None:
    ended = run("quantize", "model.gguf", "out.gguf", *ABOVE, "--check-text", "absent.txt")
    assert ended.status == 2 and "absent.txt cannot be read" in ended.err


@pytest.mark.parametrize(
    "option", ["--no-check", ("--check-chunks", "3"), ("--check-text", "a"), ("--refine", "1"),
               ("--resident", "b")]
)  # fmt: skip
def test_options_of_a_fit_without_one(run: Run, model: Path, option: str | tuple[str, ...]) -> None:
    given = (option,) if isinstance(option, str) else option
    ended = run("quantize", "model.gguf", "out.gguf", "--tier", "quality", *given)
    assert ended.status == 2
    assert f"{given[0]} is for a fit" in ended.err
    assert not model.with_name("out.gguf").exists()


def test_a_model_that_does_not_fit_into_memory(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "available_memory", lambda: 1000)
    shown = run("fit", "model.gguf", *ABOVE, *TEXT, "--json")
    assert shown.data["fit"]["measured"] is None
    assert re.search(
        r"note: the model is not run, so that predictions decide: .*of memory are free", shown.err
    )
    plain = run("fit", "model.gguf", *ABOVE, "--no-check", "--json").data
    assert shown.data["fingerprint"] == plain["fingerprint"]
    ended = run("fit", "model.gguf", *ABOVE, *TEXT, "--refine", "1")
    assert ended.status != 0 and ended.out == ""
    assert "error: " in ended.err and "of memory are free" in ended.err
    assert "--resident" in ended.err


def test_a_header_alone(run: Run, model: Path, no_run: None) -> None:
    header = apex.plan(model, file_type="COPY").files[0].header_bytes
    model.write_bytes(model.read_bytes()[:header])
    shown = run("fit", "model.gguf", *ABOVE, "--json")
    assert shown.data["fit"]["measured"] is None
    assert "only the model's header is there, so that predictions decide" in shown.err


def test_an_output_that_is_there(run: Run, model: Path, folder: Path, no_run: None) -> None:
    (folder / "out.gguf").write_bytes(b"precious")
    ended = run("quantize", "model.gguf", "out.gguf", *ABOVE)
    assert ended.status == 6
    assert "out.gguf" in ended.err
    assert (folder / "out.gguf").read_bytes() == b"precious"


def test_dry_runs_and_plans_do_not_run_it(run: Run, model: Path, no_run: None) -> None:
    assert run("quantize", "model.gguf", "out.gguf", *ABOVE, "--dry-run").status == 0
    assert run("plan", "model.gguf", "--tier", "fit-quality").status == 0
    assert run("fit", "model.gguf", "--curve", "--json").status == 0


# Stopped


@pytest.mark.parametrize("when", [0, 1, 2])
@pytest.mark.parametrize(
    ("command", "left"),
    [
        (("fit", "model.gguf", "--export", "types.txt"), "nothing was written"),
        (("quantize", "model.gguf", "out.gguf"), "nothing was left behind"),
    ],
)
def test_an_interrupt(
    run: Run,
    model: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    when: int,
    command: tuple[str, ...],
    left: str,
) -> None:
    """While the model is loaded, or one of the files is measured."""
    before = sorted(folder.iterdir())
    loaded: list[ResidentModel] = []
    load, measure, calls = ResidentModel.__init__, resident.Divergences.measure, [0]

    def count(self: ResidentModel, *arguments: Any) -> None:
        load(self, *arguments)
        loaded.append(self)
        if when == 0:
            raise KeyboardInterrupt

    def stop(self: Any, *arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == when:
            assert loaded[0]._changed
            raise KeyboardInterrupt
        return measure(self, *arguments, **named)

    monkeypatch.setattr(ResidentModel, "__init__", count)
    monkeypatch.setattr(resident.Divergences, "measure", stop)
    ended = run(*command, *ABOVE, *TEXT)
    assert ended.status == 130
    assert ended.out == ""
    assert ended.err.endswith(f"error: interrupted; {left}\n")
    assert sorted(folder.iterdir()) == before
    if when:
        assert loaded[0]._changed == set(), "the weights are given back"


def test_what_stays_after_an_interrupt(
    run: Run, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A curve, and an importance matrix that was made before."""

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(resident.Divergences, "measure", stop)
    ended = run("fit", "model.gguf", *ABOVE, *TEXT, "--curve", "-o", "curve")
    assert ended.err.endswith("error: interrupted; the curve is complete\n")
    assert (folder / "curve" / "frontier.json").exists()
    auto = ("--imatrix", "auto", "--chunks", "1", "-c", "64")
    ended = run("quantize", "model.gguf", "out.gguf", *ABOVE, *TEXT, *auto)
    assert ended.status == 130
    (matrix,) = folder.glob("*imatrix*")
    assert ended.err.endswith(f"error: interrupted; {matrix.name} stays for the next time\n")


# Refinement


def test_refining(run: Run, model: Path) -> None:
    """Half of twice as many chunks corrects, the other half decides and compares."""
    given = ("--check-text", "text.txt", "--check-chunks", "1", "--refine", "2", "--json")
    shown = run("fit", "model.gguf", *ABOVE, *given)
    assert shown.data["fit"]["measured"]["fit"]["kl"] > 0
    rounds = re.findall(
        r"refinement (\d): KL divergence (\S+) -> (\S+) over chunks kept apart, (.*)", shown.err
    )
    assert rounds and rounds[0][0] == "1"
    for _, before, after, kept in rounds:
        assert kept == ("kept" if float(after) < float(before) else "not kept")
    best = [after for _, _, after, kept in rounds if kept == "kept"] or [rounds[0][1]]
    assert f"{shown.data['fit']['measured']['fit']['kl']:.3g}" == best[-1]


def test_chunks_that_may_have_been_measured_over(run: Run, model: Path) -> None:
    note = "note: what is compared over may be among what was measured over"
    given = ("fit", "model.gguf", *ABOVE, *TEXT)
    assert note not in run(*given).err
    path = model.with_name("model.sensitivity.json")
    path.write_text(path.read_text().replace('"invented"', '"text.txt"'))
    assert note in run(*given).err


def test_too_little_text_to_refine(run: Run, model: Path, folder: Path) -> None:
    (folder / "short.txt").write_text("The quick brown fox. " * 40)
    given = ("fit", "model.gguf", *ABOVE, "--check-text", "short.txt")
    assert run(*given).status == 0
    ended = run(*given, "--refine", "1")
    assert ended.status == 2 and "takes two chunks" in ended.err


# Other files


def test_a_resident_file(run: Run, model: Path, folder: Path) -> None:
    apex.quantize(model, folder / "q8.gguf", file_type="Q8_0")
    given = ("fit", "model.gguf", *ABOVE, *TEXT, "--json")
    other = run(*given, "--resident", "q8.gguf").data["fit"]["measured"]["fit"]["kl"]
    own = run(*given).data["fit"]["measured"]["fit"]["kl"]
    assert own != other
    assert own == pytest.approx(other, rel=0.2)
    write_language_model(folder / "other.gguf", size=400, seed=8)
    ended = run(*given, "--resident", "other.gguf")
    assert ended.status == 2 and "is not a file of the same model" in ended.err


def test_with_importance(run: Run, model: Path) -> None:
    matrix, sensitivity = write_weighted(model)
    given = ("--imatrix", matrix, "--sensitivity", sensitivity, "--like", "Q2_K")
    data = run("fit", "model.gguf", *given, *TEXT, "--json").data
    assert data["fit"]["measured"]["fit"]["kl"] > 0
    shown = run("fit", "model.gguf", "--imatrix", "auto", *ABOVE, *TEXT, "--json")
    assert shown.data["fit"]["measured"] is None
    assert "the importance matrix is not there yet, so that predictions decide" in shown.err


def test_texts_that_are_not_there(run: Run, model: Path) -> None:
    ended = run("fit", "model.gguf", *ABOVE, "--check-text", "none.txt")
    assert ended.status not in (0, 1) and "none.txt" in ended.err and ended.out == ""
