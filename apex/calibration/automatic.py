"""An importance matrix beside its model: made where there is none, used again where it fits.

What is there and was not made by ``calibrate_beside`` is never replaced.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apex.calibration.collect import NOTES, calibrate
from apex.calibration.identity import earlier_digest, model_digest
from apex.calibration.options import CalibrationProgress, CalibrationResult, CollectOptions
from apex.errors import ImatrixError
from apex.files import ImportanceEntry, ImportanceMatrix, load_imatrix
from apex.sources import Model, ModelFile, open_model

__all__ = ["Beside", "calibrate_beside", "expected_matrix", "matrix_beside", "path_beside"]


@dataclass(frozen=True)
class Beside:
    """What ``--imatrix auto`` means for a model.

    Attributes:
        path: of the importance matrix beside it.
        is_usable: whether it is there and can be used; otherwise it has to be made.
        remark: what the user should know about it, after its name, as in "was made of this model";
            empty where nothing is there.
    """

    path: Path
    is_usable: bool
    remark: str


def path_beside(model: ModelFile) -> Path:
    """Where a model's own importance matrix is kept: ``NAME.imatrix.gguf`` in its folder."""
    return model.beside(".imatrix.gguf")


def matrix_beside(model: ModelFile, options: CollectOptions | None = None) -> Beside:
    """Whether the importance matrix beside a model can be used for it.

    options: those it must have been made with; None where any will do. One that
    ``calibrate_beside`` made of other weights, or with other options, is to be made again.
    Raises ImatrixError where something else is there that cannot be used.
    """
    path = path_beside(model)
    if not path.exists():
        return Beside(path, is_usable=False, remark="")
    try:
        matrix = load_imatrix(path)
    except ImatrixError as error:
        raise ImatrixError(error.message, _instead(model)) from None
    digest = str(matrix.notes.get(NOTES["model"], ""))
    is_own = NOTES["automatic"] in matrix.notes
    if digest == model_digest(model):
        return _of_this_model(model, path, matrix, is_own, options)
    if is_own:
        return Beside(path, is_usable=False, remark="was made of other weights")
    if digest.startswith("sampled:"):
        raise ImatrixError(
            f"{path} was made of other weights than those of {model.path}.", _instead(model)
        )
    _require_fit(model, matrix)
    if not digest:
        remark = "does not say what it was made of, but fits this model"
    elif digest == earlier_digest(model):
        remark = "was made by an earlier apex of this model, if its weights have not changed since"
    else:
        remark = "was made of another file, but fits this model"
    if options is not None:
        remark += "; the options for making one have no effect"
    return Beside(path, is_usable=True, remark=remark)


def _of_this_model(
    model: ModelFile,
    path: Path,
    matrix: ImportanceMatrix,
    is_own: bool,
    options: CollectOptions | None,
) -> Beside:
    remark = "was made of this model"
    differences = _differences(matrix, options or CollectOptions())
    if options is None or not differences:
        if differences and is_own:
            remark += f", with {differences}"
        return Beside(path, is_usable=True, remark=remark)
    remark = f"was made with other options: {differences}"
    if is_own:
        return Beside(path, is_usable=False, remark=remark)
    raise ImatrixError(f"{path} {remark}.", _instead(model))


def _differences(matrix: ImportanceMatrix, options: CollectOptions) -> str:
    """Which options decide what is in a matrix and differ, as in "chunks 4 instead of 8"."""
    try:
        made: dict[str, Any] = json.loads(matrix.notes[NOTES["extent"]])
        return ", ".join(
            f"{name.replace('_', ' ')} {_shown(made[name])} instead of {_shown(wanted)}"
            for name, wanted in options.extent.items()
            if made[name] != wanted
        )
    except (KeyError, TypeError, ValueError):
        return "it does not say which"


def _shown(value: Any) -> str:
    if value is None:
        return "all"
    return ("off", "on")[value] if isinstance(value, bool) else str(value)


def _require_fit(model: ModelFile, matrix: ImportanceMatrix) -> None:
    """Raise ImatrixError unless every entry for a tensor of the model has its size."""
    sizes = {tensor.name: tensor.columns * tensor.experts for tensor in model.tensors}
    shared = {name: entry for name, entry in matrix.entries.items() if name in sizes}
    if not shared:
        raise ImatrixError(
            f"{matrix.path} was made of another model: it has no entry for any tensor of "
            f"{model.path}.",
            _instead(model),
        )
    for name, entry in shared.items():
        if entry.size != sizes[name]:
            raise ImatrixError(
                f"{matrix.path} was made of another model: {name} has {entry.size} values there, "
                f"and {model.path} needs {sizes[name]}.",
                _instead(model),
            )


def _instead(model: ModelFile) -> str:
    return (
        "only what --imatrix auto made itself is replaced: move it away, or give --imatrix FILE "
        f"(apex imatrix {model.path.name} -o FILE makes one)"
    )


def calibrate_beside(
    model: str | os.PathLike[str] | ModelFile,
    *,
    options: CollectOptions | None = None,
    progress: Callable[[CalibrationProgress], None] | None = None,
) -> tuple[Path, CalibrationResult | None]:
    """The importance matrix beside a model; made with the built-in texts where it is missing.

    One that this function made of other weights or with other options is made again; see
    ``matrix_beside``. Returns its path, and what was collected if that was done now. Raises what
    ``calibrate`` and ``matrix_beside`` raise.
    """
    file = model if isinstance(model, ModelFile) else open_model(model)
    found = matrix_beside(file, options)
    if found.is_usable:
        return found.path, None
    result = calibrate(
        file,
        found.path,
        options=options,
        overwrite=bool(found.remark),  # made by this function before
        notes={NOTES["automatic"]: 1},
        progress=progress,
    )
    return found.path, result


def expected_matrix(model: Model) -> ImportanceMatrix:
    """What a calibration will give a model, with ones for values: to plan with beforehand."""
    name = f"{model.path}.imatrix.gguf"
    if isinstance(model, ModelFile):
        name = str(path_beside(model))
    entries = {}
    for tensor in model.tensors:
        if tensor.name.startswith("blk."):
            shape = (tensor.experts, tensor.columns)
            ones = np.ones(1, np.float32)
            entries[tensor.name] = ImportanceEntry(
                np.broadcast_to(ones, shape), np.ones(tensor.experts, np.float32)
            )
    return ImportanceMatrix(name, entries, (), 0, is_legacy=False)
