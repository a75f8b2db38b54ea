"""Sensitivities with invented numbers, for models of any shape."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

from apex.files import ImportanceMatrix, load_imatrix
from apex.policy import Layout
from apex.sensitivity import (
    Probe,
    Sensitivity,
    TextIdentity,
    groups_of,
    identity_of,
    save_sensitivity,
)
from apex.sensitivity.errors import candidates_of
from apex.sources import ModelFile, open_model
from apex.types import TYPES

UNSEEN = "multi-token prediction"  # the trunk does not run it


def bits(name: str) -> float:
    return 8 * TYPES[name].block_bytes / TYPES[name].block_weights


def sensitivity_of(
    model: Path | ModelFile, imatrix: Path | None = None, seed: int = 0
) -> Sensitivity:
    """Each bit less is about four times the error; what that costs differs by group."""
    source = model if isinstance(model, ModelFile) else open_model(model)
    matrix: ImportanceMatrix | None = None if imatrix is None else load_imatrix(imatrix)
    chance = random.Random(seed)
    candidates = {
        name: candidate
        for name, candidate in candidates_of(source, matrix).items()
        if candidate.types  # some rows fit none
    }
    errors = {
        name: {kind: 2.0 ** (-2 * bits(kind)) * chance.uniform(0.7, 1.4) for kind in each.types}
        for name, each in candidates.items()
    }
    layout = Layout.from_metadata(source.metadata)
    groups = []
    for group in groups_of(list(candidates), layout, "part"):
        slope = math.exp(chance.gauss(-1, 1))
        probes = tuple(
            Probe(name, distance, slope * distance, 0.0)
            for name, distance in (
                (name, sum(_nearest(errors[tensor], name) for tensor in group.tensors))
                for name in ("Q2_K", "Q4_K")
            )
        )
        groups.append(group if group.kind == UNSEEN else replace(group, probes=probes))
    text = TextIdentity(("invented",), "0" * 64, 512, 1, 256)
    digest = "" if matrix is None else matrix.digest
    return Sensitivity(
        identity_of(source), text, "F16", digest, 0.0, tuple(groups), errors, is_complete=True
    )


def _nearest(errors: dict[str, float], name: str) -> float:
    """As what a tensor became whose rows do not fit the type."""
    larger = [kind for kind in errors if bits(kind) >= bits(name)]
    return errors[min(larger, key=bits)]


def write_sensitivity(path: Path, model: Path, imatrix: Path | None = None) -> Path:
    save_sensitivity(sensitivity_of(model, imatrix), path)
    return path
