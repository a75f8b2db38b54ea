"""``apex fit``, and what the other commands take of it."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support import imatrix
from support.architectures import architectures, write_model
from support.commands import Apex
from support.sensitivities import sensitivity_of, write_sensitivity

import apex
from apex import Constraints, Wish
from apex.cli.app import run
from apex.errors import UsageError
from apex.policy import Role
from apex.reporting.frontier import check_frontier
from apex.sensitivity import save_sensitivity
from apex.sizes import parse_bytes

SPEC = architectures()["qwen35moe"]
# tests/cli/test_settling.py is about running the model.
NO_CHECK = "--no-check"
ABOVE = ("--like", "Q5_K_M", NO_CHECK)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its importance matrix, and sensitivities with and without that."""
    folder = tmp_path_factory.mktemp("home")
    write_model(folder / "Small-F16.gguf", SPEC)
    imatrix.write_gguf(folder / "matrix.gguf", imatrix.random_imatrix(SPEC))
    write_sensitivity(folder / "plain.json", folder / "Small-F16.gguf")
    write_sensitivity(folder / "weighted.json", folder / "Small-F16.gguf", folder / "matrix.gguf")
    return folder


@pytest.fixture
def model(home: Path, folder: Path) -> Path:
    """The model with its sensitivity, made without importance, beside it."""
    shutil.copy(home / "Small-F16.gguf", folder)
    shutil.copy(home / "plain.json", folder / "Small-F16.sensitivity.json")
    return folder / "Small-F16.gguf"


def sensitivity_beside(model: Path) -> Path:
    return model.with_name("Small-F16.sensitivity.json")


# What it prints


def test_what_is_shown(apex_cli: Apex, model: Path) -> None:
    found = apex.fit(model, sensitivity_beside(model), Wish(like="Q5_K_M"))
    result = apex_cli("fit", model, *ABOVE)
    assert result.returncode == 0, result.stderr
    plan = apex_cli("plan", model, "--type", "Q5_K_M")
    assert plan.stdout.splitlines()[1].split() == result.stdout.splitlines()[1].split()
    lines = result.stdout.splitlines()
    (own,) = (line for line in lines if line.startswith("fit, fitted"))
    assert own.split()[-1] == f"{found.predicted:.3g}"
    (rival,) = (line for line in lines if line.startswith("Q5_K_M, file type"))
    loss = next(rival.loss for rival in found.rivals if rival.name == "Q5_K_M")
    assert rival.split()[-1] == f"{loss:.3g}"
    assert f"asked for {found.budget:,} bytes, used {found.plan.file_bytes:,}" in result.stdout
    assert "predicted to be at most" in result.stdout


def test_json_is_a_plan_to_carry_out(apex_cli: Apex, model: Path, folder: Path) -> None:
    shown = apex_cli("fit", model, *ABOVE, "--json")
    data = json.loads(shown.stdout)
    assert data["format"] == "apex plan" and data["tier"] == "fit"
    assert data["fit"]["budget"] >= data["file_bytes"] == data["fit"]["bytes"]
    assert data["fit"]["bound"] <= data["fit"]["predicted"]
    assert {"name", "kind", "bytes", "predicted"} == set(data["fit"]["rivals"][0])
    assert data["fit"]["taken"] is None
    (folder / "plan.json").write_text(shown.stdout)
    assert apex_cli("quantize", "--plan", "plan.json", "one.gguf").returncode == 0
    assert apex_cli("quantize", model, "two.gguf", *ABOVE).returncode == 0
    one, two = ((folder / name).read_bytes() for name in ("one.gguf", "two.gguf"))
    assert one == two
    assert len(one) == data["file_bytes"]
    refused = apex_cli("quantize", "--plan", "plan.json", "three.gguf", "--size", "1G")
    assert refused.returncode == 2 and "no option can change" in refused.stderr


def test_export_and_tensors(apex_cli: Apex, model: Path, folder: Path) -> None:
    result = apex_cli("fit", model, *ABOVE, "--tensors", "--export", "types.txt")
    assert result.returncode == 0, result.stderr
    found = apex.fit(model, sensitivity_beside(model), Wish(like="Q5_K_M"))
    assert (folder / "types.txt").read_text() == found.plan.tensor_type_file()
    assert f"MODEL OUT {found.plan.file_type}" in result.stderr
    assert "fit: by measurement" in result.stdout
    again = apex_cli("fit", model, *ABOVE, "--export", "types.txt")
    assert again.returncode == 6
    name = sensitivity_beside(model).name
    over = apex_cli("fit", model, *ABOVE, "--export", name, "--overwrite")
    assert over.returncode == 6, "the sensitivity is an input"
    assert sensitivity_beside(model).read_text().startswith("{")


def test_every_option_reaches_the_fit(apex_cli: Apex, model: Path, home: Path) -> None:
    size = apex.plan(model, file_type="Q6_K").file_bytes
    result = apex_cli(
        "fit", model, "--size", size, "--sensitivity", home / "plain.json", "--formats", "k,iq4",
        "--floor", "attention=q5_k", "--floor", "shared=Q6_K", "--equal-pairs",
        "--tensor-type", "attn_q=q8_0", "--output-tensor-type", "q5_0", "--json", NO_CHECK,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = apex.fit(
        model,
        home / "plain.json",
        Wish(size=size),
        Constraints("k,iq4", {Role.ATTENTION: "Q5_K", Role.SHARED: "Q6_K"}, equal_pairs=True),
        tensor_types=["attn_q=q8_0"],
        output_tensor_type="q5_0",
    )
    assert json.loads(result.stdout)["fingerprint"] == found.best.fingerprint()


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        (("--size", "400KiB"), Wish(size=400 << 10)),
        (("--size", "400K"), Wish(size=400 << 10)),
        (("--size", "0.4MB"), Wish(size=400_000)),
        (("--bpw", "7.5"), Wish(bits_per_weight=7.5)),
        (("--like", "quality"), Wish(like="quality")),
        (("--kl", "0.01"), Wish(kl=0.01)),
    ],
)
def test_wishes(apex_cli: Apex, model: Path, wish: tuple[str, ...], expected: Wish) -> None:
    found = apex.fit(model, sensitivity_beside(model), expected)
    result = apex_cli("fit", model, *wish, "--json", NO_CHECK)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["fingerprint"] == found.best.fingerprint()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("16GiB", 16 << 30), ("16G", 16 << 30), ("16g", 16 << 30), ("16GB", 16 * 10**9)),
        *(("1.5 MiB", 3 << 19), ("700MB", 7 * 10**8), ("12345", 12345), ("12345B", 12345)),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text, "--size") == size


def test_what_is_no_size() -> None:
    with pytest.raises(UsageError, match="--size 16 bytes is not a size"):
        parse_bytes("16 bytes", "--size")


def test_a_gpu(apex_cli: Apex, demo_model: Path, folder: Path) -> None:
    write_sensitivity(folder / "demo.json", demo_model)
    given = ("fit", demo_model, NO_CHECK, "--sensitivity", "demo.json", "--vram")
    context = ("--context", "1024", "--cache-type-k", "q8_0", "--cache-type-v", "q8_0")
    result = apex_cli(*given, "540MiB", *context, "--json")
    assert result.returncode == 0, result.stderr
    gpu = json.loads(result.stdout)["fit"]["gpu"]
    assert 0.99 * gpu["room"] <= gpu["weights"] <= gpu["room"]
    assert gpu["room"] + gpu["cache"] + gpu["compute"] == (540 - 512) << 20
    shown = apex_cli(*given, "540MiB", *context, "--gpu-layers", "4", "--cpu-moe")
    assert re.search(r"GPU: weights [\d.]+ MiB of [\d.]+ MiB that are left", shown.stdout)
    small = apex_cli(*given, "513MiB", *context)
    assert small.returncode == 2
    assert "A context of 1024 tokens takes" in small.stderr


# quantize and plan


def test_quantize_several(apex_cli: Apex, model: Path, home: Path, folder: Path) -> None:
    command = (
        "quantize", model, "-o", "out", "--tier", "fit-quality", "--tier", "fit-compact",
        "--tier", "quality", "--imatrix", home / "matrix.gguf", NO_CHECK,
        "--sensitivity", home / "weighted.json", "--verify",
    )  # fmt: skip
    result = apex_cli(*command)
    assert result.returncode == 0, result.stderr
    names = sorted(path.name for path in (folder / "out").iterdir())
    assert names == [
        "Small-APEX-Fit-Compact.gguf",
        "Small-APEX-Fit-Quality.gguf",
        "Small-APEX-Quality.gguf",
    ]
    for tier in ("compact", "quality"):
        found = apex.fit(
            model,
            home / "weighted.json",
            Wish(like=f"i-{tier}"),
            name=f"fit-{tier}",
            imatrix=home / "matrix.gguf",
        )
        path = folder / "out" / f"Small-APEX-Fit-{tier.title()}.gguf"
        apex.quantize(found.best, folder / "alone.gguf", overwrite=True)
        assert path.read_bytes() == (folder / "alone.gguf").read_bytes()
        limit = apex.plan(model, tier=f"i-{tier}", imatrix=home / "matrix.gguf").file_bytes
        assert path.stat().st_size <= limit
    again = apex_cli(*command)
    assert again.returncode == 0 and again.stderr.count("is there and up to date") == 3
    sized = apex_cli("quantize", model, "-o", "out", *ABOVE)
    assert sized.returncode == 0, sized.stderr
    assert (folder / "out" / "Small-APEX-Fit.gguf").exists()


def test_dry_run(apex_cli: Apex, model: Path, folder: Path) -> None:
    before = sorted(folder.iterdir())
    result = apex_cli("quantize", model, "out.gguf", *ABOVE, "--dry-run")
    assert result.returncode == 0, result.stderr
    assert "Small-F16.gguf as fit, base" in result.stdout
    assert sorted(folder.iterdir()) == before


def test_plan_of_a_fitted_tier(apex_cli: Apex, model: Path, home: Path) -> None:
    given = ("--sensitivity", home / "weighted.json")
    shown = apex_cli("plan", model, "--tier", "fit-mini", *given)
    assert shown.returncode == 0, shown.stderr
    assert "as fit-mini, base" in shown.stdout
    assert "The sizes are right without one" in shown.stderr
    whole = apex_cli(
        *("plan", model, "--tier", "Fit-Mini", "--imatrix", home / "matrix.gguf", "--json"), *given
    )
    fitted = apex_cli(
        *("fit", model, "--tier", "fit-mini", "--imatrix", home / "matrix.gguf", "--json"),
        *given,
        NO_CHECK,
    )
    assert json.loads(whole.stdout)["fingerprint"] == json.loads(fitted.stdout)["fingerprint"]


def test_fitted_tiers_beside_all_others(apex_cli: Apex, model: Path, home: Path) -> None:
    shutil.copy(home / "weighted.json", sensitivity_beside(model))
    result = apex_cli("plan", model, "--json")
    rows = {row["tier"]: row for row in json.loads(result.stdout)}
    for name in ("quality", "compact"):
        assert rows[f"fit-{name}"]["file_bytes"] <= rows[f"i-{name}"]["file_bytes"]
    assert rows["fit-nano"]["file_bytes"] <= rows["nano"]["file_bytes"]
    assert rows["fit-nano"]["importance"] == "required"
    assert "fit-nano" in apex_cli("plan", model).stdout
    sensitivity_beside(model).write_text("{}")
    without = apex_cli("plan", model)
    assert without.returncode == 0
    assert "fit-nano" not in without.stdout and "fitted tiers are left out" in without.stderr
    assert "fit-quality" in apex_cli("tiers").stdout


# The curve


def test_the_curve(apex_cli: Apex, model: Path, folder: Path) -> None:
    result = apex_cli("fit", model, "--curve", "-o", "curve")
    assert result.returncode == 0, result.stderr
    data = json.loads((folder / "curve" / "frontier.json").read_text())
    check_frontier(data)
    assert data["model"]["name"] == "Small-F16"
    assert (folder / "curve" / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert "<html" in (folder / "curve" / "frontier.html").read_text()
    assert "smallest" in result.stdout and "largest" in result.stdout
    printed = apex_cli("fit", model, "--curve", "--json")
    assert json.loads(printed.stdout) == data
    again = apex_cli("fit", model, "--curve", "-o", "curve")
    assert again.returncode == 6
    both = apex_cli("fit", model, "--curve", "-o", "curve", "--overwrite", *ABOVE)
    assert both.returncode == 0 and "fit, fitted" in both.stdout


def test_the_curve_without_matplotlib(apex_cli: Apex, model: Path, folder: Path) -> None:
    (folder / "none" / "matplotlib").mkdir(parents=True)
    block = "import sys\nsys.modules['matplotlib'] = None\n"
    (folder / "none" / "sitecustomize.py").write_text(block)
    result = apex_cli("fit", model, "--curve", "-o", "curve", PYTHONPATH=_path(folder / "none"))
    assert result.returncode == 0, result.stderr
    assert "frontier.png is left out" in result.stderr
    names = sorted(path.name for path in (folder / "curve").iterdir())
    assert names == ["frontier.html", "frontier.json"]


def _path(first: Path) -> str:
    return os.pathsep.join(filter(None, (str(first), os.environ.get("PYTHONPATH"))))


# Mistakes

MISTAKES = {
    "no wish": (("fit", "MODEL"), "size or the quality that is wanted is missing"),
    "two wishes": (("fit", "MODEL", "--size", "1G", "--kl", "0.1"), "fitted to one thing only"),
    "a plain tier": (("fit", "MODEL", "--tier", "mini"), "The types of mini are not fitted"),
    "another tier": (("fit", "MODEL", "--tier", "fit-huge"), "There is no tier fit-huge"),
    "a tier and a wish": (("fit", "MODEL", "--tier", "fit-mini", "--bpw", "4"), "--bpw asks for"),
    "no size": (("fit", "MODEL", "--size", "much"), "--size much is not a size"),
    "nothing": (("fit", "MODEL", "--bpw", "0"), "must be more than 0"),
    "not a number": (("fit", "MODEL", "--kl", "nan"), "must be more than 0"),
    "pure": (("fit", "MODEL", *ABOVE, "--pure"), "--pure gives every tensor the same type"),
    "a context alone": (("fit", "MODEL", *ABOVE, "--context", "9"), "--context says what a GPU"),
    "layers alone": (("fit", "MODEL", *ABOVE, "--gpu-layers", "9"), "--gpu-layers says what a GPU"),
    "formats": (("fit", "MODEL", *ABOVE, "--formats", "q"), "There are no formats 'q'"),
    "a floor": (("fit", "MODEL", *ABOVE, "--floor", "head=Q6_K"), "not of the form ROLE=TYPE"),
    "a floor's type": (("fit", "MODEL", *ABOVE, "--floor", "ssm=Q7"), "There is no type Q7"),
    "no folder": (("fit", "MODEL", "--curve"), "The folder for the curve is missing"),
    "no curve": (("fit", "MODEL", *ABOVE, "-o", "x"), "-o is where --curve writes to"),
    "no such namesake": (("fit", "MODEL", "--like", "Q9"), "no tier and no file type Q9"),
    "quantize, tier": (("quantize", "MODEL", "o", "--size", "1G", "--tier", "mini"), "--size asks"),
    "quantize, type": (("quantize", "MODEL", "o", "--kl", "1", "--type", "Q8_0"), "--kl asks for"),
    "quantize, fit tier": (
        ("quantize", "MODEL", "o", "--size", "1G", "--tier", "fit-mini"),
        "--size asks",
    ),
    "quantize, pure": (("quantize", "MODEL", "o", "--tier", "fit-mini", "--pure"), "--pure gives"),
    "quantize, no wish": (
        ("quantize", "MODEL", "o", "--tier", "mini", "--formats", "k"),
        "--formats is for a fit",
    ),
    "plan, no wish": (("plan", "MODEL", "--tier", "mini", "--equal-pairs"), "--equal-pairs is for"),
    "plan, type": (("plan", "MODEL", "--tier", "fit-mini", "--type", "Q8_0"), "one or the other"),
    "tiers": (("tiers", "fit-mini"), "The tier fit-mini has no recipe"),
    "curve, pure": (("fit", "MODEL", "--curve", "--json", "--pure"), "chooses the types itself"),
    "curve, layers": (("fit", "MODEL", "--curve", "--json", "--cpu-moe"), "--cpu-moe says what"),
    "curve, export": (
        ("fit", "MODEL", "--curve", "--json", "--export", "x"),
        "show the types of one",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(
    model: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    status = run([str(model) if part == "MODEL" else part for part in arguments])
    told, stderr = capfd.readouterr()
    assert status == 2, stderr
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in stderr
    assert "hint: " in stderr
    assert told == ""
    assert sorted(folder.iterdir()) == before


def test_a_size_that_cannot_be_reached(apex_cli: Apex, model: Path) -> None:
    result = apex_cli("fit", model, "--size", "100K")
    assert result.returncode == 5
    named = re.search(r"smallest file that can be made has ([\d,]+) bytes", result.stderr)
    assert named is not None
    assert apex_cli("fit", model, "--size", named[1].replace(",", ""), NO_CHECK).returncode == 0
    assert apex_cli("fit", model, "--kl", "1e-15").returncode == 5


def test_sensitivities_that_cannot_be_used(
    apex_cli: Apex, model: Path, dense_model: Path, home: Path, folder: Path
) -> None:
    good = (home / "plain.json").read_text()

    def refused(text: str) -> str:
        (folder / "bad.json").write_text(text)
        given = (*ABOVE, "--sensitivity", "bad.json")
        for command in (("fit", model), ("quantize", model, "out.gguf")):
            result = apex_cli(*command, *given)
            assert result.returncode == 10
            assert len(re.findall("^error: ", result.stderr, re.MULTILINE)) == 1
            assert not (folder / "out.gguf").exists()
        return result.stderr

    assert "newer" in refused(re.sub(r'"version": ?1', '"version": 99', good, count=1))
    assert "bad.json" in refused(good[: len(good) // 2])
    assert "bad.json" in refused("{}")
    assert "bad.json" in refused(re.sub(r'"kl": ?[\d.e-]+', '"kl": NaN', good, count=1))
    result = apex_cli("fit", dense_model, "--bpw", "5", "--sensitivity", home / "plain.json")
    assert result.returncode == 10 and "of the architecture qwen35moe" in result.stderr
    sensitivity_beside(model).unlink()
    result = apex_cli("fit", model, *ABOVE)
    assert result.returncode == 10
    assert f"{sensitivity_beside(model)} is not there" in result.stderr
    assert "apex measure" in result.stderr
    assert apex_cli("fit", model, *ABOVE, "--sensitivity", "none.json").returncode == 10


def test_what_is_said_about_a_sensitivity(apex_cli: Apex, model: Path, home: Path) -> None:
    result = apex_cli("fit", model, *ABOVE)
    assert "note: The sensitivity" not in result.stderr
    part = replace(sensitivity_of(model), is_complete=False)
    save_sensitivity(part, sensitivity_beside(model), overwrite=True)
    result = apex_cli("fit", model, *ABOVE, "--imatrix", home / "matrix.gguf")
    assert result.returncode == 0
    assert "The sensitivity is incomplete" in result.stderr
    assert "measured without one" in result.stderr
    weighted = ("--sensitivity", home / "weighted.json")
    result = apex_cli("fit", model, *ABOVE, *weighted, "--imatrix", home / "matrix.gguf")
    assert "note: The sensitivity" not in result.stderr
    entries = imatrix.random_imatrix(SPEC, seed=1)
    imatrix.write_gguf(model.with_name("other.gguf"), entries)
    result = apex_cli("fit", model, *ABOVE, *weighted, "--imatrix", "other.gguf")
    assert "with another importance matrix" in result.stderr
    result = apex_cli("fit", model, *ABOVE, *weighted)
    assert "measured with an importance matrix, and without one" in result.stderr


def test_importance_that_is_needed(apex_cli: Apex, model: Path, folder: Path) -> None:
    for command in (("fit", model), ("quantize", model, "out.gguf")):
        result = apex_cli(*command, "--tier", "fit-mini")
        assert result.returncode == 4
        assert "The tier fit-mini of the size of mini needs an importance matrix" in result.stderr
    assert not (folder / "out.gguf").exists()


def test_a_better_rival_is_said_and_taken(apex_cli: Apex, home: Path, folder: Path) -> None:
    """The heads of tiers are large; where they are much of a model, a file type can be better."""
    model = home / "Small-F16.gguf"
    found = None
    for name in ("Q5_0", "Q5_1", "Q4_1", "Q4_0", "Q5_K_S", "Q4_K_S", "Q5_K_M"):
        size = apex.plan(model, file_type=name).file_bytes
        found = apex.fit(model, home / "plain.json", Wish(size=size))
        if found.better_rival is not None:
            break
    assert found is not None and found.better_rival is not None
    given = ("--size", size, "--sensitivity", home / "plain.json", NO_CHECK)
    shown = apex_cli("fit", model, *given, "--json")
    assert json.loads(shown.stdout)["fit"]["taken"] == found.better_rival.name
    assert f"{found.better_rival.name} is taken as it is, since its predicted" in shown.stderr + (
        " ".join(json.loads(shown.stdout)["notes"])
    )
    result = apex_cli("quantize", model, "out.gguf", *given)
    assert f"note: {found.better_rival.name} is taken as it is" in result.stderr
    apex.quantize(model, folder / "rival.gguf", file_type=found.better_rival.name)
    assert (folder / "out.gguf").read_bytes() == (folder / "rival.gguf").read_bytes()


def test_auto_makes_the_matrix_first(
    apex_cli: Apex, demo_model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(demo_model, folder / "m.gguf")
    write_sensitivity(folder / "m.sensitivity.json", folder / "m.gguf")
    auto = ("--imatrix", "auto")
    shown = apex_cli("fit", "m.gguf", *ABOVE, *auto)
    assert shown.returncode == 0, shown.stderr
    assert "quantize would first make" in shown.stderr
    refused = apex_cli("quantize", "m.gguf", "out.gguf", "--size", "1M", *auto)
    assert refused.returncode == 5, "before the importance matrix is made"
    assert not list(folder.glob("*imatrix*"))
    result = apex_cli("quantize", "m.gguf", "out.gguf", *ABOVE, *auto, "--chunks", "2", "-c", "64")
    assert result.returncode == 0, result.stderr
    (matrix,) = folder.glob("*imatrix*")
    monkeypatch.chdir(folder)
    wish = Wish(like="Q5_K_M")
    found = apex.fit("m.gguf", "m.sensitivity.json", wish, imatrix=matrix.name)
    apex.quantize(found.best, "same.gguf")
    assert (folder / "same.gguf").read_bytes() == (folder / "out.gguf").read_bytes()
