"""An importance matrix beside its model: made where there is none, used again where there is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from apex.calibration.collect import (
    CalibrationProgress,
    CalibrationResult,
    CollectOptions,
    calibrate,
    model_digest,
)
from apex.errors import ImatrixError
from apex.files import ImportanceEntry, ImportanceMatrix, load_imatrix
from apex.sources import ModelFile, open_model

__all__ = ["calibrate_beside", "expected_matrix", "matrix_beside", "path_beside"]


def path_beside(model: ModelFile) -> Path:
    """Where a model's own importance matrix is kept: ``NAME.imatrix.gguf`` in its folder."""
    return model.path.with_name(model.path.name.removesuffix(".gguf") + ".imatrix.gguf")


def matrix_beside(model: ModelFile) -> Path | None:
    """The importance matrix that was made of this very model before, or None."""
    path = path_beside(model)
    if not path.exists():
        return None
    try:
        notes = load_imatrix(path).notes
    except ImatrixError:
        return None
    return path if notes.get("apex.calibration.model") == model_digest(model) else None


def calibrate_beside(
    model: str | os.PathLike[str] | ModelFile,
    *,
    options: CollectOptions | None = None,
    progress: Callable[[CalibrationProgress], None] | None = None,
) -> tuple[Path, CalibrationResult | None]:
    """The importance matrix beside a model; made with the built-in texts where it is missing.

    One that was made of another model, or is damaged, is replaced. Returns its path, and what was
    collected if that was done now. Raises what ``calibrate`` raises.
    """
    file = model if isinstance(model, ModelFile) else open_model(model)
    found = matrix_beside(file)
    if found is not None:
        return found, None
    path = path_beside(file)
    result = calibrate(file.path, path, options=options, overwrite=True, progress=progress)
    return path, result


def expected_matrix(model: ModelFile) -> ImportanceMatrix:
    """What a calibration will give a model, with ones for values: to plan with beforehand."""
    entries = {}
    for tensor in model.tensors:
        if tensor.name.startswith("blk."):
            shape = (tensor.experts, tensor.columns)
            ones = np.ones(1, np.float32)
            entries[tensor.name] = ImportanceEntry(
                np.broadcast_to(ones, shape), np.ones(tensor.experts, np.float32)
            )
    return ImportanceMatrix(str(path_beside(model)), entries, (), 0, is_legacy=False)
