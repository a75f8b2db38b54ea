"""Which model a sensitivity belongs to, whatever file the model is in."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

import numpy as np

from apex import _core
from apex.errors import DataError, SensitivityError
from apex.sensitivity.data import ModelIdentity, Sensitivity
from apex.sources import Source, Tensor
from apex.types import TYPES

__all__ = ["check_model", "differing_tensor", "identity_of"]

_SAMPLES = 16
# BF16 and Q8_0 change the sum by up to 0.2 % in a trained model, Q4_K_M by 1.4 %. A light
# fine-tune, which moves weights by less than a twentieth of their size, changes it as little.
_TOLERANCE = 0.005

_HINT = "give the file that was measured on this model, or make it: apex measure MODEL"


def identity_of(source: Source) -> ModelIdentity:
    """What tells a model from others; reads the first rows of up to 16 tensors.

    Raises ModelFileError where they cannot be read, DataError where they are NaN or infinite.
    """
    source.require_data()
    matrices = sorted(
        (tensor for tensor in source.tensors if _can_be_sampled(tensor)),
        key=lambda tensor: tensor.name,
    )
    count = min(_SAMPLES, len(matrices))
    chosen = [matrices[index * len(matrices) // count] for index in range(count)]
    reference = source.reference
    return ModelIdentity(
        reference.name,
        reference.architecture,
        reference.weights,
        _tensors_digest(source),
        {tensor.name: _sample(source, tensor) for tensor in chosen},
    )


def check_model(sensitivity: Sensitivity, source: Source, *, weights: bool = True) -> None:
    """Raise SensitivityError unless the sensitivity was measured on this model.

    Another file of it, of other types, is the same model. Names and shapes are compared, and
    unless ``weights`` is False also the first rows of some tensors, which an F16, BF16 or Q8_0
    file has nearly alike. Raises ModelFileError where they cannot be read, DataError where they
    are NaN or infinite.
    """
    measured = sensitivity.model
    name = source.reference.name
    if source.reference.architecture != measured.architecture:
        raise SensitivityError(
            f"The sensitivity was measured on a model of the architecture {measured.architecture}, "
            f"{measured.name}, and {name} is of the architecture {source.reference.architecture}.",
            _HINT,
        )
    if _tensors_digest(source) != measured.tensors:
        raise SensitivityError(
            f"The sensitivity was measured on another model, {measured.name}: "
            f"{_difference(sensitivity, source)}.",
            _HINT,
        )
    differing = differing_tensor(measured.samples, source) if weights else None
    if differing is not None:
        raise SensitivityError(
            f"The sensitivity was measured on another model of the same shape ({measured.name}), "
            f"such as another fine-tune: the weights of {differing} differ.",
            f"{_HINT}; a file of few bits a weight is not recognised",
        )


def _tensors_digest(source: Source) -> str:
    tensors = sorted((tensor.name, tensor.shape) for tensor in source.tensors)
    return hashlib.sha256(json.dumps(tensors).encode("ascii")).hexdigest()


def _difference(sensitivity: Sensitivity, source: Source) -> str:
    """Why the tensors of a sensitivity and of a model are not the same, as far as can be known."""
    name = source.reference.name
    theirs = {*sensitivity.errors, *sensitivity.group_of, *sensitivity.model.samples}
    ours = {tensor.name for tensor in source.tensors}
    for tensor in sorted(theirs - ours):
        return f"{name} has no tensor {tensor}"
    # A router is in no group of any model; what has a group in another layer is missing in this.
    known = {_without_numbers(tensor) for tensor in sensitivity.group_of}
    for tensor in sorted(ours - theirs):
        if _without_numbers(tensor) in known:
            return f"it has no tensor {tensor}, and {name} has one"
    return f"{name} has tensors of other names or shapes"


def _without_numbers(name: str) -> str:
    return re.sub(r"[0-9]+", "", name)


def _can_be_sampled(tensor: Tensor) -> bool:
    return len(tensor.shape) >= 2 and TYPES[tensor.type].has_dequantizer


def differing_tensor(samples: Mapping[str, float], source: Source) -> str | None:
    """The first tensor whose first row is not that of ``ModelIdentity.samples``, or None.

    Raises ModelFileError where it cannot be read, DataError where it is NaN or infinite.
    """
    source.require_data()
    tensors = {tensor.name: tensor for tensor in source.tensors}
    for name, theirs in samples.items():
        tensor = tensors.get(name)
        if tensor is None or not _can_be_sampled(tensor):
            continue
        ours = _sample(source, tensor)
        if abs(ours - theirs) > _TOLERANCE * max(ours, theirs):
            return name
    return None


def _sample(source: Source, tensor: Tensor) -> float:
    """The sum of the squares of a tensor's first row."""
    row = np.empty(tensor.row_bytes, np.uint8)
    source.read(tensor, 0, row.data)
    weights = _core.dequantize(row, tensor.type, shape=(tensor.columns,)).astype(np.float64)
    total = float(np.sum(weights * weights))
    if not np.isfinite(total):
        raise DataError(
            f"The first row of {tensor.name} in {source.reference.name} is not finite.",
            "convert the model again",
        )
    return total
