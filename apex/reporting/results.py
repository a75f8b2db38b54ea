"""Results of ``apex eval``, read back and joined."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apex.errors import UsageError

__all__ = ["Record", "Results", "load_results"]

_FORMAT = "apex evaluation 1"


@dataclass
class Record:
    """One model in one setting: the same text, context and KV cache.

    Attributes:
        name: the file's name without its ending.
        label: the name, with what sets it apart from others of that name.
        bytes, bits_per_weight: of the file.
        is_reference: whether others were compared with it.
        perplexity, divergence, mtp_agreement, mtp_perplexity, speed: as in the JSON, or None.
        tasks: accuracies by (kind, name), as in the JSON.
        tensors: every matrix with layer, role, type and, where known, error.
        settings: those that it was measured in.
    """

    name: str
    label: str
    bytes: int
    bits_per_weight: float
    is_reference: bool
    settings: dict[str, Any]
    perplexity: dict[str, Any] | None = None
    divergence: dict[str, Any] | None = None
    mtp_agreement: dict[str, Any] | None = None
    mtp_perplexity: dict[str, Any] | None = None
    speed: dict[str, Any] | None = None
    tasks: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    tensors: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Results:
    """Everything that some files say.

    Attributes:
        records: one per model and setting, smallest file first.
        sources: (file name, its settings, machine and versions) of each file.
        notes: what the reader should know.
    """

    records: list[Record]
    sources: list[tuple[str, dict[str, Any]]]
    notes: list[str]


def load_results(paths: Sequence[str | os.PathLike[str]]) -> Results:
    """Read and join JSON files of ``apex eval``. Raises UsageError.

    The same model measured twice in the same setting is one record; the later file's numbers count.
    """
    records: dict[tuple[Any, ...], Record] = {}
    sources, notes = [], []
    for path in map(Path, paths):
        data = _read(path)
        sources.append((path.name, {k: v for k, v in data.items() if k not in ("models", "notes")}))
        if not data.get("complete", False):
            notes.append(f"{path.name} is of a run that was stopped; its numbers are of a part.")
        for model in data["models"]:
            key = _key(model, data["settings"])
            record = records.get(key)
            if record is None:
                record = records[key] = Record(
                    model["name"],
                    model["name"],
                    model["bytes"],
                    model["bits_per_weight"],
                    model["is_reference"],
                    data["settings"],
                )
            _take(record, model)
    if not records:
        raise UsageError("The results hold no models.", "give JSON files that apex eval -o wrote")
    ordered = sorted(records.values(), key=lambda record: (record.bytes, record.name))
    _label(ordered)
    return Results(ordered, sources, notes)


def _read(path: Path) -> dict[str, Any]:
    hint = "give JSON files that apex eval -o wrote"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", hint) from None
    except ValueError:
        raise UsageError(f"{path} is no JSON.", hint) from None
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise UsageError(f"{path} holds no results of apex eval.", hint)
    missing = {"models", "settings"} - data.keys()
    if missing:
        raise UsageError(f"{path} is incomplete: {', '.join(sorted(missing))} missing.", hint)
    return data


# What makes two measurements comparable.
_SETTING = ("context_length", "cache_type_k", "cache_type_v")


def _key(model: dict[str, Any], settings: dict[str, Any]) -> tuple[Any, ...]:
    identity = tuple(sorted(model["sha256"].values())) or (model["path"], model["bytes"])
    return (identity, *(settings.get(name) for name in _SETTING))


def _take(record: Record, model: dict[str, Any]) -> None:
    for name in ("perplexity", "divergence", "mtp_agreement", "mtp_perplexity", "speed"):
        if model.get(name) is not None:
            setattr(record, name, model[name])
    record.is_reference = record.is_reference or model["is_reference"]
    for task in model["tasks"]:
        record.tasks[task["kind"], task["name"]] = task
    has_errors = any(tensor["rmse"] is not None for tensor in model["tensors"])
    if has_errors or not record.tensors:
        record.tensors = model["tensors"]


def _label(records: Sequence[Record]) -> None:
    """Tell records of one name apart by their KV cache or context."""
    for record in records:
        same = [other for other in records if other.name == record.name]
        for name in _SETTING:
            if len({str(other.settings.get(name)) for other in same}) > 1:
                record.label += f", {name.replace('_', ' ')} {record.settings.get(name)}"
