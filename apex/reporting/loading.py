"""Results of ``apex eval``, read back and joined."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from apex.errors import UsageError
from apex.reporting.results import (
    Divergence,
    HarnessResult,
    Model,
    Number,
    Results,
    SpeedResult,
    TaskResult,
    TextResult,
)
from apex.reporting.settings import Setting, speed_setting, task_setting, text_setting

__all__ = ["load_results"]

_FORMAT = "apex evaluation 1"
_HINT = "give JSON files that apex eval -o wrote"


def load_results(paths: Sequence[str | os.PathLike[str]]) -> Results:
    """Read and join JSON files of ``apex eval``. Raises UsageError.

    Where the same model was measured twice in the same setting, the later file's numbers count.
    """
    joined = _Joined()
    for path in map(Path, paths):
        data = _read(path)
        try:
            joined.add(path.name, data)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise UsageError(f"{path} is damaged: it lacks part of the results.", _HINT) from None
    if not joined.models:
        raise UsageError("The results hold no models.", _HINT)
    return joined.results()


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", _HINT) from None
    except (ValueError, RecursionError):  # the latter for brackets in brackets in brackets
        raise UsageError(f"{path} is not a JSON file.", _HINT) from None
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise UsageError(f"{path} does not hold results of apex eval.", _HINT)
    missing = {"models", "settings"} - data.keys()
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise UsageError(
            f"{path} is incomplete: {' and '.join(sorted(missing))} {verb} missing.", _HINT
        )
    return data


class _Joined:
    """Results in the making: what was read of each model in each setting so far."""

    def __init__(self) -> None:
        self.models: list[Model] = []
        self._texts: dict[tuple[Model, Setting], TextResult] = {}
        self._tasks: dict[tuple[Model, Setting, str], TaskResult] = {}
        self._harness: dict[tuple[Model, Setting, str, str], HarnessResult] = {}
        self._speeds: dict[tuple[Model, Setting], SpeedResult] = {}
        self._sources: list[tuple[str, dict[str, str]]] = []
        self._notes: list[str] = []

    def add(self, name: str, data: dict[str, Any]) -> None:
        """Take what one file says. Raises what reading a damaged one raises."""
        self._sources.append((name, _facts(data)))
        if not data.get("complete", False):
            self._notes.append(f"{name} is of a run that was stopped; its numbers are of a part.")
        for entry in data["models"]:
            model = self._model(entry)
            self._add_text(model, data, entry)
            for task in entry["tasks"]:
                setting = task_setting(data, int(task["tasks"]))
                title = f"{task['kind']} ({task['name']})"
                self._tasks[model, setting, title] = _task(model, setting, title, task)
            self._add_harness(model, data, entry)
            speeds = {
                kind: _number(value)
                for kind, value in (entry["speed"] or {}).items()
                if kind != "repetitions"
            }
            if speeds:
                setting = speed_setting(data)
                before = self._speeds.get((model, setting))
                known = {} if before is None else before.speeds
                self._speeds[model, setting] = SpeedResult(model, setting, {**known, **speeds})

    def _model(self, entry: dict[str, Any]) -> Model:
        new = Model(
            entry["name"],
            entry["path"],
            frozenset(entry["sha256"].values()),
            int(entry["bytes"]),
            float(entry["bits_per_weight"]),
            bool(entry["is_reference"]),
            entry["tensors"],
        )
        for model in self.models:
            if _is_same(model, new):
                model.is_reference |= new.is_reference
                model.sha256 |= new.sha256
                if _has_errors(new.tensors) or not model.tensors:
                    model.tensors = new.tensors
                return model
        self.models.append(new)
        return new

    def _add_text(self, model: Model, data: dict[str, Any], entry: dict[str, Any]) -> None:
        perplexity = entry["perplexity"]
        if perplexity is None:
            return
        setting = text_setting(data, int(perplexity["chunks"]))
        new = TextResult(
            model,
            setting,
            _number(perplexity),
            None if entry["divergence"] is None else _divergence(entry["divergence"]),
            None if entry["mtp_agreement"] is None else _number(entry["mtp_agreement"]),
            None if entry["mtp_perplexity"] is None else _number(entry["mtp_perplexity"]),
        )
        before = self._texts.get((model, setting))
        if before is not None:  # a run without the head does not undo one with it
            kept = {
                f.name: getattr(before, f.name) for f in fields(new) if getattr(new, f.name) is None
            }
            new = replace(new, **kept)
        self._texts[model, setting] = new

    def _add_harness(self, model: Model, data: dict[str, Any], entry: dict[str, Any]) -> None:
        """The numbers of what was asked for, without those of a group's members."""
        asked = data["settings"].get("harness") or {}
        for score in entry.get("harness") or ():
            if score["part_of"] is not None:
                continue
            parts = [
                str(score["task"]),
                "" if score["shots"] is None else _shots(int(score["shots"])),
                "chat template" if asked.get("chat") else "",
            ]
            kind = "" if score["filter"] == "none" else f" ({score['filter']})"
            arrow = {True: " ↑", False: " ↓", None: ""}[score["higher_is_better"]]
            task, metric = ", ".join(filter(None, parts)), f"{score['metric']}{kind}{arrow}"
            setting = task_setting(data, int(score["samples"]))
            number = Number(_float(score["value"]), _float(score["error"]))
            result = HarnessResult(model, setting, task, metric, number)
            self._harness[model, setting, task, metric] = result

    def results(self) -> Results:
        """All of it in order."""
        self.models.sort(key=lambda model: (model.bytes, model.name))
        _label(self.models)
        place = {model: index for index, model in enumerate(self.models)}
        return Results(
            self.models,
            sorted(self._texts.values(), key=lambda result: place[result.model]),
            sorted(self._tasks.values(), key=lambda result: place[result.model]),
            sorted(self._harness.values(), key=lambda result: place[result.model]),
            sorted(self._speeds.values(), key=lambda result: place[result.model]),
            self._sources,
            self._notes,
        )


def _facts(data: Mapping[str, Any]) -> dict[str, str]:
    machine = data.get("machine") or {}
    threads = data["settings"].get("threads") or machine.get("threads") or "?"
    parts = [machine.get("processor"), f"threads: {threads}", *(machine.get("gpus") or ())]
    return {
        "machine": ", ".join(str(part) for part in parts if part),
        "versions": f"apex {data.get('apex', '?')}, llama.cpp {data.get('llama.cpp', '?')}",
        "seconds": f"{float(data.get('seconds') or 0):.1f}",
        "peak memory": f"{int(data.get('peak_memory_bytes') or 0) / 2**20:.0f} MiB",
        **{
            key.replace("_", " "): str(value)
            for key, value in data["settings"].items()
            if value not in (None, [], 0)
        },
    }


def _shots(number: int) -> str:
    return f"{number} shot" if number == 1 else f"{number} shots"


def _is_same(one: Model, other: Model) -> bool:
    """By the files' hashes where both have one, else by where they are and how large."""
    if one.sha256 and other.sha256:
        return one.sha256 == other.sha256
    return (one.path, one.bytes) == (other.path, other.bytes)


def _has_errors(tensors: Sequence[Mapping[str, Any]]) -> bool:
    return any(tensor["rmse"] is not None for tensor in tensors)


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def _number(data: Mapping[str, Any]) -> Number:
    return Number(_float(data["value"]), _float(data["error"]))


def _divergence(data: Mapping[str, Any]) -> Divergence:
    kl = data["kl"]
    return Divergence(
        _number(kl),
        _float(kl["median"]),
        _float(kl["p99.9"]),
        _float(kl["maximum"]),
        _number(data["same_top"]),
        _number(data["dp_rms"]),
    )


def _task(model: Model, setting: Setting, title: str, data: Mapping[str, Any]) -> TaskResult:
    return TaskResult(
        model,
        setting,
        title,
        Number(_float(data["accuracy"]), _float(data["error"])),
        int(data["correct"]),
        int(data["tasks"]),
        float(data["chance"]),
    )


def _label(models: Sequence[Model]) -> None:
    """Tell models of one name apart by their folders, else by their hashes."""
    for model in models:
        same = [other for other in models if other.name == model.name]
        model.label = model.name
        if len(same) > 1:
            folders = {Path(other.path).parent.name for other in same}
            digest = min(model.sha256, default="")[:6]
            is_enough = len(folders) == len(same)
            model.label = (
                f"{Path(model.path).parent.name}/{model.name}"
                if is_enough
                else f"{model.name} ({digest or model.path})"
            )
