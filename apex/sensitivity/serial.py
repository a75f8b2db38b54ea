"""A sensitivity as a file: JSON that people can read and compare, a group or a tensor to a line."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from apex.errors import SensitivityError
from apex.files import OutputSet, check_output
from apex.planning import REFERENCE, ROUNDINGS
from apex.sensitivity.data import Anchor, Group, ModelIdentity, Probe, Sensitivity, TextIdentity

__all__ = ["load_sensitivity", "rounded", "save_sensitivity"]

_FORMAT = "apex-sensitivity"
_VERSION = 1
# Ten times what a model of a trillion weights needs.
_LARGEST = 128 << 20


def save_sensitivity(
    sensitivity: Sensitivity,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    inputs: Iterable[str | os.PathLike[str]] = (),
) -> None:
    """Write a sensitivity, whole or not at all; measured numbers get six significant digits.

    overwrite: whether a file that exists may be replaced.
    inputs: files that may not be replaced in any case, such as the model's.

    Raises OutputError, and SensitivityError where a value is one that no file may hold.
    """
    check_output([path], inputs, overwrite=overwrite)
    text = _text(sensitivity)
    _parse(text, "The sensitivity")
    with OutputSet([Path(path)]) as output:
        output.files[0].write(text.encode("ascii"))
        output.commit()


def load_sensitivity(path: str | os.PathLike[str]) -> Sensitivity:
    """Read what ``save_sensitivity`` wrote. Raises SensitivityError.

    Whether it is of a certain model is another question: see ``check_model``.
    """
    name = os.fspath(path)
    try:
        if not Path(name).is_file() and Path(name).exists():  # a pipe would be waited for
            raise SensitivityError(f"{name} is not a regular file.", _HINT_KIND)
        with Path(name).open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise SensitivityError(
            f"{name} cannot be read: {error.strerror}.", "check the path"
        ) from None
    if len(data) > _LARGEST:
        raise SensitivityError(f"{name} is too large to be a sensitivity file.", _HINT_KIND)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise SensitivityError(f"{name} is not JSON.", _HINT_KIND) from None
    return _parse(text, name)


_HINT_KIND = "give a file that apex measure wrote"
_HINT_DAMAGED = "measure the model again: apex measure MODEL"


def _text(sensitivity: Sensitivity) -> str:
    head = {
        "format": _FORMAT,
        "version": _VERSION,
        "is_complete": sensitivity.is_complete,
        "model": asdict(sensitivity.model) | {"samples": _short(sensitivity.model.samples)},
        "text": asdict(sensitivity.text),
        "resident_type": sensitivity.resident_type,
        "imatrix": sensitivity.imatrix,
        **_rounding_data(sensitivity),
        "floor": rounded(sensitivity.floor),
        "settings": dict(sensitivity.settings),
        "anchors": [
            {key: rounded(v) if isinstance(v, float) else v for key, v in asdict(anchor).items()}
            for anchor in sensitivity.anchors
        ],
    }
    groups = [json.dumps(_group_data(group)) for group in sensitivity.groups]
    errors = [
        f"{json.dumps(name)}: {json.dumps(_short(by_type))}"
        for name, by_type in sensitivity.errors.items()
    ]
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    lines.append('"groups": [\n' + ",\n".join(groups) + "\n]")
    lines.append('"errors": {\n' + ",\n".join(errors) + "\n}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _rounding_data(sensitivity: Sensitivity) -> dict[str, str]:
    """Nothing for the reference's, as in files that are older than any other rounding."""
    if sensitivity.rounding == REFERENCE:
        return {}
    return {"rounding": sensitivity.rounding, "second_moments": sensitivity.second_moments}


def _group_data(group: Group) -> dict[str, Any]:
    probes = [
        {
            "type": probe.type,
            "distance": rounded(probe.distance),
            "kl": rounded(probe.kl),
            "error": rounded(probe.error),
        }
        for probe in group.probes
    ]
    return {
        "name": group.name,
        "kind": group.kind,
        "layer": group.layer,
        "tensors": list(group.tensors),
        "probes": probes,
    }


def _short(values: Mapping[str, float]) -> dict[str, float]:
    return {key: rounded(value) for key, value in values.items()}


def rounded(value: float) -> float:
    """A measured number as files have it: with six significant digits."""
    return float(f"{value:.6g}")


class _DamageError(ValueError):
    """What is wrong with a file, as the end of a sentence."""


class _Value:
    """A value of the file and where it is; what it is taken as is checked."""

    def __init__(self, value: Any, where: str) -> None:
        self._value = value
        self._where = where

    def __getitem__(self, key: str) -> _Value:
        where = f"{self._where}.{key}" if self._where else key
        if key not in self._as(dict, "an object"):
            raise _DamageError(f"{where} is missing")
        return _Value(self._value[key], where)

    def get(self, key: str, default: Any) -> _Value:
        there = key in self._as(dict, "an object")
        return self[key] if there else _Value(default, key)

    def items(self) -> list[tuple[str, _Value]]:
        return [
            (key, _Value(value, f"{self._where}[{key[:100]!r}]"))
            for key, value in self._as(dict, "an object").items()
        ]

    def elements(self) -> list[_Value]:
        values = self._as(list, "a list")
        return [_Value(value, f"{self._where}[{index}]") for index, value in enumerate(values)]

    def object(self) -> dict[str, Any]:
        return dict(self._as(dict, "an object"))

    def text(self) -> str:
        return str(self._as(str, "a text"))

    def flag(self) -> bool:
        return bool(self._as(bool, "true or false"))

    def is_null(self) -> bool:
        return self._value is None

    def count(self) -> int:
        if not isinstance(self._value, int) or isinstance(self._value, bool) or self._value < 0:
            raise _DamageError(f"{self._where} is not a whole number that is 0 or more")
        return self._value

    def number(self, least: float = 0.0) -> float:
        if not isinstance(self._value, (int, float)) or isinstance(self._value, bool):
            raise _DamageError(f"{self._where} is not a number")
        try:
            value = float(self._value)
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            raise _DamageError(f"{self._where} is NaN or infinite")
        if value < least:
            raise _DamageError(f"{self._where} is {value:g}, less than {least:g}")
        return value

    def _as(self, kind: type, words: str) -> Any:
        if not isinstance(self._value, kind):
            raise _DamageError(f"{self._where} is not {words}")
        return self._value


# The mean of noisy values may lie a little below zero, but not so far.
_LEAST_KL = -1.0


def _parse(text: str, name: str) -> Sensitivity:
    not_finite: list[str] = []

    def number(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            not_finite.append(digits[:100])
        return value

    try:
        data = json.loads(text, parse_float=number, parse_constant=number)
    except (ValueError, RecursionError):  # also for thousands of digits, and for thousands of [
        raise SensitivityError(f"{name} is not JSON.", _HINT_KIND) from None
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise SensitivityError(f"{name} is not a sensitivity file.", _HINT_KIND)
    root = _Value(data, "")
    try:
        version = root["version"].count()
        if version == 0:
            raise _DamageError("version is 0")
        if version > _VERSION:
            raise SensitivityError(
                f"{name} was written by a newer apex, in version {version} of the format, "
                f"and this apex reads version {_VERSION}.",
                "update apex",
            )
        sensitivity = _sensitivity(root)
        _check_tensors(sensitivity)
        if not_finite:  # where any value may be, as in the settings
            raise _DamageError(f"it holds {not_finite[0]}")
    except _DamageError as error:
        raise SensitivityError(f"{name} is damaged: {error}.", _HINT_DAMAGED) from None
    return sensitivity


def _sensitivity(root: _Value) -> Sensitivity:
    model, text = root["model"], root["text"]
    return Sensitivity(
        ModelIdentity(
            model["name"].text(),
            model["architecture"].text(),
            model["weights"].count(),
            model["tensors"].text(),
            {key: value.number() for key, value in model["samples"].items()},
        ),
        TextIdentity(
            tuple(name.text() for name in text["names"].elements()),
            text["digest"].text(),
            text["context_length"].count(),
            text["chunks"].count(),
            text["positions"].count(),
        ),
        root["resident_type"].text(),
        root["imatrix"].text(),
        root["floor"].number(_LEAST_KL),
        tuple(_group(group) for group in root["groups"].elements()),
        {
            name: {key: value.number() for key, value in by_type.items()}
            for name, by_type in root["errors"].items()
        },
        root["settings"].object(),
        root["is_complete"].flag(),
        tuple(_anchor(anchor) for anchor in root["anchors"].elements()),
        _rounding(root.get("rounding", REFERENCE).text()),
        root.get("second_moments", "").text(),
    )


def _rounding(name: str) -> str:
    if name not in ROUNDINGS:
        raise _DamageError(f"there is no rounding {name[:100]!r}")
    return name


def _anchor(data: _Value) -> Anchor:
    return Anchor(
        data["name"].text(),
        data["loss"].number(),
        data["kl"].number(_LEAST_KL),
        data["error"].number(),
    )


def _group(data: _Value) -> Group:
    layer = data["layer"]
    return Group(
        data["name"].text(),
        data["kind"].text(),
        None if layer.is_null() else layer.count(),
        tuple(name.text() for name in data["tensors"].elements()),
        tuple(
            Probe(
                probe["type"].text(),
                probe["distance"].number(),
                probe["kl"].number(_LEAST_KL),
                probe["error"].number(),
            )
            for probe in data["probes"].elements()
        ),
    )


def _check_tensors(sensitivity: Sensitivity) -> None:
    """Raise _DamageError unless each tensor is in one group and has errors."""
    seen: dict[str, str] = {}
    for group in sensitivity.groups:
        for name in group.tensors:
            if name in seen:
                raise _DamageError(
                    f"the tensor {name} is in two groups, {seen[name]!r} and {group.name!r}"
                    if seen[name] != group.name
                    else f"the tensor {name} is in the group {group.name!r} twice"
                )
            if name not in sensitivity.errors:
                raise _DamageError(
                    f"the tensor {name} of the group {group.name!r} is not in the errors"
                )
            seen[name] = group.name
