"""Reads a plan from the data that ``Plan.to_dict`` gives."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apex.errors import PlanError
from apex.planning.data import (
    PLAN_FORMAT,
    PLAN_VERSION,
    MatrixReference,
    Plan,
    PlannedFile,
)
from apex.planning.importance import ImportanceReference
from apex.planning.tensor import REFERENCE, ROUNDINGS, MomentsReference, PlannedTensor
from apex.policy import Role
from apex.sources import SourceReference, Tensor
from apex.types import TYPES, fits

__all__ = ["load_plan", "plan_from_dict"]


def plan_from_dict(data: Mapping[str, Any]) -> Plan:
    """The plan that ``Plan.to_dict`` gave. Raises PlanError where it is damaged or not a plan."""
    if not isinstance(data, Mapping) or data.get("format") != PLAN_FORMAT:
        raise PlanError("This is not a plan.", "apex plan MODEL --json writes one")
    if data.get("version") != PLAN_VERSION:
        raise PlanError(
            f"The plan is of version {data.get('version')}, and this apex reads {PLAN_VERSION}.",
            "make the plan again",
        )
    try:
        plan = _read(data)
        if plan.fingerprint() != data["fingerprint"]:
            raise ValueError("its fingerprint is that of another plan")
        _check_places(plan)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PlanError(f"The plan is damaged: {error}.", "make the plan again") from None
    return plan


def load_plan(path: str | os.PathLike[str]) -> Plan:
    """Read a plan from a JSON file. Raises PlanError."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError(
            f"{os.fspath(path)} cannot be read: {error.strerror}.", "check the path"
        ) from None
    except (ValueError, RecursionError):
        raise PlanError(
            f"{os.fspath(path)} is not a plan.", "apex plan MODEL --json writes one"
        ) from None
    return plan_from_dict(data)


def _read(data: Mapping[str, Any]) -> Plan:
    imatrix, moments = data["imatrix"], data.get("second_moments")
    return Plan(
        SourceReference.from_dict(data["source"]),
        data["tier"],
        str(data["file_type"]),
        tuple(_file(item) for item in data["files"]),
        tuple(_tensor(item) for item in data["tensors"]),
        None if imatrix is None else MatrixReference(str(imatrix), str(data["imatrix_digest"])),
        tuple(map(str, data["notes"])),
        tuple(map(str, data["inputs"])),
        bool(data["is_verbatim"]),
        bool(data["is_sizes_only"]),
        None if moments is None else MatrixReference(str(moments["path"]), str(moments["digest"])),
    )


def _file(data: Mapping[str, Any]) -> PlannedFile:
    return PlannedFile(
        tuple((str(key), str(kind), value) for key, kind, value in data["keys"]),
        int(data["alignment"]),
        int(data["header_bytes"]),
        str(data["header_digest"]),
        int(data["bytes"]),
    )


def _tensor(data: Mapping[str, Any]) -> PlannedTensor:
    shape = tuple(map(int, data["shape"]))
    source = Tensor(str(data["name"]), shape, str(data["source_type"]), int(data["shard"]))
    for name in (source.type, data["type"]):
        if name not in TYPES or not fits(name, source.columns):
            raise ValueError(f"{source.name} cannot be {name}")
    entry = data["importance"]
    importance = None
    if entry is not None:
        unreached = tuple(map(int, data["unreached"]))
        importance = ImportanceReference(str(entry), source.experts, source.columns, unreached)
    return PlannedTensor(
        source,
        str(data["type"]),
        Role(data["role"]),
        data["layer"],
        str(data["zone"]),
        str(data["decided_by"]),
        str(data["reason"]),
        str(data["wanted"]),
        importance,
        int(data["file"]),
        int(data["offset"]),
        _rounding(data),
        _moments(data),
    )


def _rounding(data: Mapping[str, Any]) -> str:
    name = str(data.get("rounding", REFERENCE))  # which older plans do not have
    if name not in ROUNDINGS:
        raise ValueError(f"there is no rounding {name}")
    return name


def _moments(data: Mapping[str, Any]) -> MomentsReference | None:
    entry = data.get("moments")
    if entry is None:
        return None
    return MomentsReference(str(entry), tuple(map(int, data["few_rows"])))


def _check_places(plan: Plan) -> None:
    """Raise ValueError unless tensors follow each other in their files."""
    if plan.is_verbatim:
        return
    for index, file in enumerate(plan.files):
        offset = file.header_bytes
        for tensor in (tensor for tensor in plan.tensors if tensor.file == index):
            if tensor.offset != offset:
                raise ValueError(f"{tensor.name} is not at its place")
            offset += -(-tensor.bytes // file.alignment) * file.alignment
        if file.bytes != offset:
            raise ValueError(f"file {index + 1} has another size")
