"""``apex measure``: what it says before, during and after, and how it shows what was found."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import moments
from support.commands import COMMAND, Apex, environment
from support.language import write_language_model

import apex
from apex.calibration import read_texts
from apex.cli.measuring import _showing
from apex.cli.output import Printer
from apex.cli.sensitivities import heat_lines
from apex.cli.stopping import Stopped
from apex.cli.values import parse_duration
from apex.errors import UsageError
from apex.files import load_second_moments
from apex.inference import RunOptions
from apex.sensitivity import (
    Group,
    MeasureCost,
    MeasureOptions,
    MeasureProgress,
    ModelIdentity,
    Probe,
    Sensitivity,
    TextIdentity,
    load_sensitivity,
    save_sensitivity,
)

SMALL = ("-c", "16", "-b", "64", "--chunks", "2", "--detail", "kind")


@pytest.fixture
def model(tiny_model: Path, folder: Path) -> Path:
    """A copy of a small model, in the folder where the command runs."""
    path = folder / "model.gguf"
    path.write_bytes(tiny_model.read_bytes())
    return path


@pytest.fixture
def text(folder: Path) -> Path:
    path = folder / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog, which sleeps. " * 4)
    return path


def test_what_is_written_is_what_the_library_writes(
    apex_cli: Apex, model: Path, text: Path, folder: Path
) -> None:
    result = apex_cli("measure", model, "-f", text, *SMALL, "--levels", "q3_k,q6_k")
    assert result.returncode == 0, result.stderr
    written = folder / "model.sensitivity.json"
    assert f"wrote {written}" in result.stdout
    run = RunOptions(context_length=16, batch_size=64)
    options = MeasureOptions(run, chunks=2, levels=("Q3_K", "Q6_K"), detail="kind")
    library = apex.measure(model, folder / "same.json", texts=read_texts([text]), options=options)
    assert written.read_bytes() == (folder / "same.json").read_bytes()
    cost = f"24 probes of 12 groups over 2 chunks of 16 tokens: {library.tokens:,} tokens to run"
    assert cost in result.stderr
    assert re.search(r"the probes take about \d+ s", result.stderr)
    assert "without --imatrix, types that need an importance matrix" in result.stderr
    assert f"24 probes; {library.tokens:,} tokens in" in result.stdout
    rows = re.findall(
        r"^(\w[\w, ]*?)  +([\d.e-]+) +([\d.e-]+) +([\d.e-]+) +(\d+)$", result.stdout, re.MULTILINE
    )
    assert {row[0]: int(row[4]) for row in rows} == {
        "embedding": 2, "output": 2, "query, key": 4, "value": 4, "attention output": 4,
        "dense gate, up": 4, "dense down": 4,
    }  # fmt: skip
    means = [float(row[1]) for row in rows]
    assert means == sorted(means, reverse=True)
    assert all(float(row[2]) <= float(row[1]) <= float(row[3]) for row in rows)


def test_quiet_and_json(apex_cli: Apex, model: Path, text: Path, folder: Path) -> None:
    common = ("measure", "run", model, "-f", text, *SMALL, "--levels", "Q3_K", "-q")
    result = apex_cli(*common, "-o", "a.json")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    result = apex_cli(*common, "-o", "b.json", "--json")
    assert result.stderr == ""
    data = json.loads(result.stdout)
    assert (data["path"], data["probes"], data["groups"], data["chunks"]) == ("b.json", 12, 12, 2)
    assert data["is_complete"] is True
    assert (folder / "a.json").read_bytes() == (folder / "b.json").read_bytes()


def test_an_importance_matrix_is_made_where_there_is_none(
    apex_cli: Apex, model: Path, text: Path, folder: Path
) -> None:
    common = ("measure", model, "-f", text, *SMALL, "--levels", "IQ2_S", "--imatrix")
    result = apex_cli(*common, "auto")
    assert result.returncode == 0, result.stderr
    matrix = folder / "model.imatrix.gguf"
    assert f"making {matrix} from the built-in texts" in result.stderr
    found = load_sensitivity(folder / "model.sensitivity.json")
    assert found.imatrix
    inside = [group for group in found.groups if group.layer is not None]
    assert {probe.type for group in inside for probe in group.probes} == {"IQ2_S"}
    again = apex_cli(*common, "auto", "-o", "auto.json")
    assert f"using {matrix}, which was made of this model" in again.stderr
    given = apex_cli(*common, matrix, "-o", "given.json")
    assert given.returncode == again.returncode == 0
    assert (folder / "auto.json").read_bytes() == (folder / "given.json").read_bytes()


def test_the_whole_way_with_compensated_rounding(
    apex_cli: Apex, model: Path, text: Path, folder: Path
) -> None:
    """measure, fit, quantize: the fit is to what was measured, and the file is of that rounding."""
    matrix, second_moments = moments.write_data(model, folder)
    how = ("--imatrix", matrix, "--rounding", "compensated", "--second-moments", second_moments)
    measured = apex_cli("measure", model, "-f", text, *SMALL, *how)
    assert measured.returncode == 0, measured.stderr
    shown = apex_cli("measure", "show", "model.sensitivity.json").stdout
    digest = load_second_moments(second_moments).digest
    assert f"\nrounding: compensated, second moments: {digest[:12]}\n" in shown
    data = json.loads(apex_cli("measure", "show", "model.sensitivity.json", "--json").stdout)
    assert (data["rounding"], data["second_moments"]) == ("compensated", digest)
    fit = ("--like", "Q3_K_M", "--check-text", text, "--check-chunks", "2")
    fitted = apex_cli("fit", model, *fit, *how)
    assert fitted.returncode == 0, fitted.stderr
    assert "The sensitivity was measured" not in fitted.stdout + fitted.stderr
    other = apex_cli("fit", model, *fit, "--imatrix", matrix)
    note = "was measured with compensated rounding, so that what is predicted of reference"
    assert note in re.sub(r"\s+", " ", other.stdout + other.stderr)
    written = apex_cli("quantize", model, "out.gguf", *fit, *how)
    assert written.returncode == 0, written.stderr
    assert apex.open_model(folder / "out.gguf").metadata["quantize.rounding"] == "compensated"


def test_a_time_that_is_short(apex_cli: Apex, model: Path, text: Path, folder: Path) -> None:
    common = ("measure", model, "-f", text, *SMALL)
    result = apex_cli(*common, "--time", "0.001s")
    assert result.returncode == 0
    assert "note: the time was up after 0 of 24 probes; the same command with" in result.stderr
    assert not load_sensitivity(folder / "model.sensitivity.json").is_complete
    shown = apex_cli("measure", "show", "model.sensitivity.json", "--groups")
    assert shown.returncode == 0
    assert "note: the measurement is not complete" in shown.stderr
    refused = apex_cli("measure", "show", "model.sensitivity.json", "--plot", "a.png")
    assert refused.returncode == 10
    assert "has no probe yet" in refused.stderr
    result = apex_cli(*common, "--overwrite")
    assert result.returncode == 0
    assert load_sensitivity(folder / "model.sensitivity.json").is_complete


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--levels", "Q9_K"), 2, "error: There is no level Q9_K"),
        (("--levels", ""), 2, "error: There is no level "),
        (("--detail", "layer"), 2, "error: Tensors cannot be grouped by 'layer'"),
        (("--time", "soon"), 2, "error: --time soon is not a time"),
        (("--imatrix", "missing.gguf"), 4, "missing.gguf"),
        (("--resident", "missing.gguf"), 3, "missing.gguf"),
        (("-o", "model.gguf", "--overwrite"), 6, "model.gguf"),
        (("-f", "missing.txt"), 2, "missing.txt"),
    ],
)
def test_wrong_options(
    apex_cli: Apex, model: Path, arguments: tuple[str, ...], status: int, message: str
) -> None:
    """Before any work."""
    before = model.read_bytes()
    result = apex_cli("measure", "model.gguf", *arguments)
    assert result.returncode == status, result.stderr
    assert message in result.stderr
    assert "probes of" not in result.stderr
    assert model.read_bytes() == before


def test_the_output_is_checked_before_an_importance_matrix_is_made(
    apex_cli: Apex, model: Path, folder: Path
) -> None:
    (folder / "model.sensitivity.json").write_text("mine")
    result = apex_cli("measure", model, "--imatrix", "auto")
    assert result.returncode == 6
    assert sorted(path.name for path in folder.iterdir()) == [
        "model.gguf",
        "model.sensitivity.json",
    ]


def test_another_model_as_resident(apex_cli: Apex, model: Path, folder: Path) -> None:
    write_language_model(folder / "other.gguf", size=400, seed=8)
    result = apex_cli("measure", model, "--resident", "other.gguf")
    assert result.returncode == 2
    assert "other.gguf is not a file of the same model" in result.stderr


def test_ctrl_c_saves_what_was_measured(model: Path, text: Path, folder: Path) -> None:
    """In a process of its own, as soon as the first probes run."""
    arguments = ("measure", "model.gguf", "-f", "text.txt", "--built-in", *SMALL)
    process = subprocess.Popen(
        [*COMMAND, *arguments, "--chunks", "200"],
        cwd=folder,
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    assert process.stderr is not None
    while "the probes take about" not in (line := process.stderr.readline()):
        assert line, "it ended"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    match = re.search(r"interrupted; (\d+) probes? (is|are) saved, and the same command goes", err)
    assert match is not None, err
    checkpoint = folder / "model.sensitivity.json.checkpoint"
    found = load_sensitivity(checkpoint)
    assert sum(len(group.probes) for group in found.groups) == int(match[1])


COST = MeasureCost(3, 6, 8, 512)
STEP = MeasureProgress("errors", 0, 100, COST)


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        ([], "nothing was measured yet"),
        ([STEP], "nothing was measured yet"),
        (
            [replace(STEP, stage="reference", total=8)],
            "0 probes are saved, and the same command goes on from there",
        ),
        (
            [replace(STEP, stage="probes", total=6, saved=1)],
            "1 probe is saved, and the same command goes on from there",
        ),
        (
            [STEP, replace(STEP, stage="probes", total=6, saved=4)],
            "4 probes are saved, and the same command goes on from there",
        ),
    ],
)
def test_what_an_interrupt_leaves(steps: list[MeasureProgress], left: str) -> None:
    with pytest.raises(Stopped) as stopped, _showing(Printer(quiet=True)) as progress:
        for step in steps:
            progress(step)
        raise KeyboardInterrupt
    assert stopped.value.message == f"interrupted; {left}"


def test_a_new_cost_is_said_and_the_time_once(capsys: pytest.CaptureFixture[str]) -> None:
    with _showing(Printer()) as progress:
        progress(STEP)
        progress(replace(STEP, done=50))
        shorter = replace(STEP, stage="probes", total=6, cost=MeasureCost(3, 6, 1, 512))
        progress(replace(shorter, seconds_left=600.0))
        progress(replace(shorter, done=1, seconds_left=500.0))
    assert capsys.readouterr().err.splitlines() == [
        f"6 probes of 3 groups over 8 chunks of 512 tokens: {COST.tokens:,} tokens to run",
        f"6 probes of 3 groups over 1 chunk of 512 tokens: {COST.tokens // 8:,} tokens to run",
        "the probes take about 10 min",
    ]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1h 30m 5s", 5405),
        ("1.5h", 5400), ("30min", 1800), (" 5M ", 300), ("0.5s", 0.5),
    ],
)  # fmt: skip
def test_times(text: str, seconds: float) -> None:
    assert parse_duration(text, "--time") == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "m", "0m", "-5m", "5d", "30m1h", "1h30", "inf", "nan", "٣m", "1e3s"]
)
def test_no_times(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time"):
        parse_duration(text, "--time")


# show


def write_invented(
    path: Path, layers: int, value: Callable[[int], float], imatrix: str = "0123456789abcdef"
) -> None:
    """Two kinds in each layer, of which one was measured in the even layers only; an output."""
    groups = []
    for layer in range(layers):
        for kind, name in (("value", "attn_v"), ("linear attention output", "ssm_out")):
            probes: tuple[Probe, ...] = ()
            if kind == "value" or layer % 2 == 0:
                kl = 0.1 * value(layer) * (10 if kind == "value" else 1)
                probes = (Probe("IQ2_S", 0.1, kl, kl / 10),)
            tensor = f"blk.{layer}.{name}.weight"
            groups.append(Group(f"layer {layer}, {kind}", kind, layer, (tensor,), probes))
    groups.append(Group("output", "output", None, ("output.weight",), (Probe("Q2_K", 1, 0.5, 0),)))
    errors = {name: {"Q8_0": 1e-4} for group in groups for name in group.tensors}
    model = ModelIdentity("model.gguf", "llama", 1234567, "0" * 64, {})
    text = TextIdentity(("chat", "code"), "0" * 64, 512, 8, 2048)
    save_sensitivity(Sensitivity(model, text, "F16", imatrix, 0.00123, tuple(groups), errors), path)


def test_the_heat_map(apex_cli: Apex, folder: Path) -> None:
    """Digits by hand: sensitivities from 0.01 to 10 in steps of a third of a decade."""
    write_invented(folder / "a.json", 4, lambda layer: 0.01 * 10**layer if layer < 3 else 1.0)
    result = apex_cli("measure", "show", "a.json")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[:5] == [
        "model.gguf (llama, 1,234,567 weights)",
        "measured as F16 over 8 chunks of 512 tokens, 2,048 positions compared",
        "texts: chat, code",
        "importance matrix: 0123456789ab",
        "floor: 0.00123 nats, which any change costs",
    ]
    start = next(number for number, line in enumerate(lines) if line.startswith("layer"))
    assert lines[start : start + 9] == [
        "layer                     0",
        "                        - 0123",
        "value                     3699",
        "linear attention output   0.6.",
        "output                  5",
        "",
        "0: 0.01 nats per unit of relative error, 9: 10; each step is 2.2 times as much.",
        "The column - holds what lies in no layer.",
        ".: not measured, estimated from layers nearby.",
    ]
    assert re.search(r"^value +5\.28 +0\.1 +10 +4$", result.stdout, re.MULTILINE)
    assert re.search(r"^output +0\.5 +0\.5 +0\.5 +1$", result.stdout, re.MULTILINE)


@pytest.mark.parametrize("layers", [1, 40, 50, 51, 120])
def test_the_heat_map_fits_80_columns(layers: int) -> None:
    kinds = ("linear attention output", "value")
    shown: dict[tuple[str, int | None], str] = {("value", None): "x"}
    shown |= {(kind, layer): str(layer % 7) for kind in kinds for layer in range(layers)}
    lines = list(heat_lines(shown))
    assert max(map(len, lines)) < 80
    rows = [line[26:] for line in lines if line.startswith("value")]
    assert "".join(rows) == "".join(str(layer % 7) for layer in range(layers))
    assert sum("x" in line for line in lines) == 1
    assert len(rows) == (1 if layers <= 50 else -(-layers // 50))


def test_groups_plot_and_json(apex_cli: Apex, folder: Path) -> None:
    write_invented(folder / "a.json", 4, lambda layer: 1.0, imatrix="")
    result = apex_cli("measure", "show", "a.json", "--groups", "--plot", "heat.png")
    assert result.returncode == 0, result.stderr
    assert "without importance matrix" in result.stdout
    assert re.search(r"^layer 0, value +10 ± 1$", result.stdout, re.MULTILINE)
    assert re.search(r"^ +IQ2_S +0\.1 +1 ± 0\.1$", result.stdout, re.MULTILINE)
    assert re.search(r"^layer 1, linear attention output +about 1$", result.stdout, re.MULTILINE)
    assert "wrote heat.png" in result.stdout
    assert (folder / "heat.png").read_bytes().startswith(b"\x89PNG")
    again = apex_cli("measure", "show", "a.json", "--plot", "heat.png")
    assert again.returncode == 6
    result = apex_cli("measure", "show", "a.json", "--json")
    data = json.loads(result.stdout)
    assert data["model"]["name"] == "model.gguf" and data["floor"] == 0.00123
    by_name = {group["name"]: group for group in data["groups"]}
    assert by_name["layer 0, value"]["sensitivity"]["value"] == pytest.approx(10)
    assert by_name["layer 0, value"]["probes"][0]["type"] == "IQ2_S"
    assert by_name["layer 1, linear attention output"]["sensitivity"]["is_measured"] is False
    assert np.isfinite(by_name["output"]["sensitivity"]["value"])


def test_a_file_that_is_not_one(apex_cli: Apex, folder: Path) -> None:
    (folder / "a.json").write_text("{}")
    result = apex_cli("measure", "show", "a.json")
    assert result.returncode == 10
    assert "a.json is not a sensitivity file" in result.stderr
