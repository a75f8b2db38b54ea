"""Sensitivity files: what comes back, and every way in which a file can be bad."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import apex
from apex.errors import OutputError, SensitivityError
from apex.sensitivity import (
    Group,
    ModelIdentity,
    Probe,
    Sensitivity,
    TextIdentity,
    load_sensitivity,
    save_sensitivity,
)

SAMPLE = Sensitivity(
    ModelIdentity("m.gguf", "llama", 1000, "ab12", {"a": 0.25}),
    TextIdentity(("prose.txt", "bücher\udcff.txt"), "cd34", 512, 2, 1000),
    "F16",
    "",
    0.0004,
    (
        Group("layer 3, value", "value", 3, ("a", "b"), (Probe("Q3_K", 0.5, -0.001, 0.002),)),
        Group("output", "output", None, ("c",)),
    ),
    {"a": {"Q3_K": 0.01, "Q9_NEW": 0.0}, "b": {"Q3_K": 0.02}, "c": {}},
    {"seconds": 3.5, "command": ["measure", None]},
    is_complete=False,
)


def data() -> dict[str, Any]:
    """The sample as JSON."""
    content: dict[str, Any] = json.loads(text_of(SAMPLE))
    return content


def text_of(sensitivity: Sensitivity) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.json"
        save_sensitivity(sensitivity, path)
        return path.read_text(encoding="ascii")


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "s.json"
    save_sensitivity(SAMPLE, path)
    assert load_sensitivity(path) == SAMPLE
    assert os.listdir(path.parent) == ["s.json"]  # noqa: PTH208


def test_the_rounding_is_said_where_it_is_not_the_references(tmp_path: Path) -> None:
    assert "rounding" not in text_of(SAMPLE) and "second_moments" not in text_of(SAMPLE)
    other = replace(SAMPLE, rounding="compensated", second_moments="12ab")
    path = tmp_path / "s.json"
    save_sensitivity(other, path)
    assert load_sensitivity(path) == other != SAMPLE


NAMES = st.text(max_size=8)
NUMBERS = st.floats(0, 1e6).map(lambda value: float(f"{value:.6g}"))
COUNTS = st.integers(0, 2**62)


@st.composite
def sensitivities(draw: st.DrawFn) -> Sensitivity:
    tensors = draw(st.lists(NAMES, unique=True, max_size=6))
    samples = draw(st.dictionaries(NAMES, NUMBERS, max_size=4))
    probes = st.builds(Probe, NAMES, NUMBERS, NUMBERS, NUMBERS)
    groups = tuple(
        Group(draw(NAMES), draw(NAMES), draw(st.none() | COUNTS), (name,), (draw(probes),))
        for name in tensors
    )
    return Sensitivity(
        ModelIdentity(draw(NAMES), draw(NAMES), draw(COUNTS), draw(NAMES), samples),
        TextIdentity((draw(NAMES),), draw(NAMES), draw(COUNTS), draw(COUNTS), draw(COUNTS)),
        draw(NAMES),
        draw(NAMES),
        draw(NUMBERS),
        groups,
        {name: draw(st.dictionaries(NAMES, NUMBERS, max_size=4)) for name in tensors},
        draw(st.dictionaries(NAMES, NAMES | NUMBERS, max_size=3)),
        draw(st.booleans()),
    )


@settings(max_examples=40, deadline=None)
@given(sensitivities())
def test_what_is_saved_comes_back(
    tmp_path_factory: pytest.TempPathFactory, sensitivity: Sensitivity
) -> None:
    path = tmp_path_factory.mktemp("round") / "s.json"
    save_sensitivity(sensitivity, path)
    assert load_sensitivity(path) == sensitivity


def test_a_line_for_each_group_and_tensor_and_six_digits() -> None:
    noisy = replace(SAMPLE, errors={**SAMPLE.errors, "b": {"Q3_K": 1 / 3}})
    lines = text_of(SAMPLE).splitlines()
    changed = [line for line in text_of(noisy).splitlines() if line not in lines]
    assert changed == ['"b": {"Q3_K": 0.333333},']
    assert sum(line.startswith('{"name": ') for line in lines) == len(SAMPLE.groups)


def test_the_file_of_a_large_model_is_small(tmp_path: Path) -> None:
    types = [f"IQ{number}_XXS" for number in range(15)]
    names = [f"blk.{layer}.ffn_gate_exps{part}.weight" for layer in range(40) for part in range(18)]
    errors = {name: dict.fromkeys(types, math.pi / 10000.0) for name in names}
    groups = tuple(Group(name, "other", 1, (name,)) for name in names)
    path = tmp_path / "s.json"
    save_sensitivity(replace(SAMPLE, groups=groups, errors=errors), path)
    assert path.stat().st_size < 500_000


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    save_sensitivity(SAMPLE, path)
    with pytest.raises(OutputError, match="exists already"):
        save_sensitivity(SAMPLE, path)
    save_sensitivity(replace(SAMPLE, floor=0.5), path, overwrite=True)
    assert load_sensitivity(path).floor == 0.5
    with pytest.raises(OutputError, match="is the input itself"):
        save_sensitivity(SAMPLE, path, overwrite=True, inputs=[path])


def test_what_no_file_may_hold_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(SensitivityError, match=r"floor is NaN or infinite"):
        save_sensitivity(replace(SAMPLE, floor=math.nan), tmp_path / "s.json")
    assert not any(tmp_path.iterdir())


def changed(*keys: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(root: Any) -> None:
        for key in keys[:-1]:
            root = root[key]
        root[keys[-1]] = to

    return change


def without(*keys: str | int) -> Callable[[dict[str, Any]], None]:
    def change(root: Any) -> None:
        for key in keys[:-1]:
            root = root[key]
        del root[keys[-1]]

    return change


PROBE = ("groups", 0, "probes", 0)
DAMAGED = {
    "version is missing": without("version"),
    "version is 0": changed("version", to=0),
    "version is not a whole number": changed("version", to="2"),
    "model is missing": without("model"),
    "model is not an object": changed("model", to=[]),
    "model.weights is not a whole number": changed("model", "weights", to=1.5),
    "model.weights is not a whole": changed("model", "weights", to=True),
    "model.tensors is not a text": changed("model", "tensors", to=1),
    r"model.samples\['a'\] is not a number": changed("model", "samples", "a", to="1"),
    "text.names is not a list": changed("text", "names", to="a"),
    r"text.names\[1\] is not a text": changed("text", "names", 1, to=None),
    "text.chunks is not a whole number that is 0 or more": changed("text", "chunks", to=-1),
    "resident_type is missing": without("resident_type"),
    "imatrix is not a text": changed("imatrix", to=None),
    "there is no rounding 'upwards'": changed("rounding", to="upwards"),
    "second_moments is not a text": changed("second_moments", to=1),
    "floor is -2, less than -1": changed("floor", to=-2),
    "settings is not an object": changed("settings", to=3),
    "is_complete is not true or false": changed("is_complete", to=1),
    "groups is not a list": changed("groups", to={}),
    r"groups\[0\] is not an object": changed("groups", 0, to="a"),
    r"groups\[1\].layer is not a whole number": changed("groups", 1, "layer", to="0"),
    r"groups\[1\].layer is missing": without("groups", 1, "layer"),
    r"groups\[0\].probes\[0\].kl is missing": without(*PROBE, "kl"),
    r"groups\[0\].probes\[0\].kl is NaN or infinite": changed(*PROBE, "kl", to=math.nan),
    r"groups\[0\].probes\[0\].kl is -1.5, less": changed(*PROBE, "kl", to=-1.5),
    r"probes\[0\].distance is NaN or infinite": changed(*PROBE, "distance", to=math.inf),
    r"probes\[0\].distance is -1, less than 0": changed(*PROBE, "distance", to=-1),
    r"probes\[0\].error is not a number": changed(*PROBE, "error", to=False),
    r"errors is not an object": changed("errors", to=[]),
    r"errors\['b'\] is not an object": changed("errors", "b", to=1),
    r"errors\['b'\]\['Q3_K'\] is -0.5, less than 0": changed("errors", "b", "Q3_K", to=-0.5),
    r"errors\['a'\]\['Q3_K'\] is NaN or infinite": changed("errors", "a", "Q3_K", to=-math.inf),
    r"errors\['b'\]\['Q3_K'\] is NaN or inf": changed("errors", "b", "Q3_K", to=10**400),
    "it holds NaN": changed("settings", "x", to=[math.nan]),
    "it holds Infinity": changed("unknown", to=math.inf),
    "tensor a is in two groups, 'layer 3, value' and": changed("groups", 1, "tensors", 0, to="a"),
    "tensor a is in the group 'layer 3, value' twice": changed("groups", 0, "tensors", 1, to="a"),
    "tensor c of the group 'output' is not in the errors": without("errors", "c"),
}


@pytest.mark.parametrize("message", DAMAGED)
def test_a_damaged_file(tmp_path: Path, message: str) -> None:
    content = data()
    DAMAGED[message](content)
    path = tmp_path / "s.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(SensitivityError, match=rf"s\.json is damaged: .*{message}") as caught:
        load_sensitivity(path)
    assert "apex measure" in caught.value.hint
    assert caught.value.message.endswith(".")
    assert "\n" not in caught.value.message


BAD = {
    b"": "is not JSON",
    b"{": "is not JSON",
    b"GGUF\3\0\0\0\xff\xfe": "is not JSON",
    b"[" * 200_000: "is not JSON",
    b'{"a": ' * 200_000: "is not JSON",
    b'{"format": "apex-sensitivity", "version": ' + b"9" * 10_000 + b"}": "is not JSON",
    b"[]": "is not a sensitivity file",
    b"NaN": "is not a sensitivity file",
    b'{"format": "apex plan", "version": 1}': "is not a sensitivity file",
    b'{"format": "apex-sensitivity", "version": 2}': "was written by a newer apex, in version 2",
}


@pytest.mark.parametrize("index", range(len(BAD)))
def test_a_file_of_another_kind(tmp_path: Path, index: int) -> None:
    content, message = list(BAD.items())[index]
    path = tmp_path / "s.json"
    path.write_bytes(content)
    with pytest.raises(SensitivityError, match=rf"s\.json .*{message}") as caught:
        load_sensitivity(path)
    assert caught.value.hint


def test_a_number_too_large_for_a_float_in_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(text_of(SAMPLE).replace('"seconds": 3.5', '"seconds": 1e999'))
    with pytest.raises(SensitivityError, match="it holds 1e999"):
        load_sensitivity(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SensitivityError, match="cannot be read: No such file"):
        load_sensitivity(tmp_path / "none.json")
    with pytest.raises(SensitivityError, match="is not a regular file"):
        load_sensitivity(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SensitivityError, match="is not a regular file"):
        load_sensitivity(tmp_path / "pipe")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(SensitivityError, match="is too large"):
        load_sensitivity(tmp_path / "huge.json")


def test_the_error_is_public_and_has_a_status_of_its_own() -> None:
    assert apex.SensitivityError is SensitivityError
    statuses = {kind.exit_code for kind in apex.ApexError.__subclasses__()}
    assert SensitivityError.exit_code == 10
    assert len(statuses) == len(apex.ApexError.__subclasses__())
