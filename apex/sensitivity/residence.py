"""Which file of a model is in memory while it is measured."""

from __future__ import annotations

from pathlib import Path

from apex.errors import UsageError
from apex.sensitivity.binding import differing_tensor
from apex.sensitivity.data import ModelIdentity
from apex.sources import ModelFile, open_model

__all__ = ["main_type", "require_same_weights", "resident_file"]


def resident_file(file: ModelFile, path: Path | None) -> ModelFile:
    """The file that runs in a model's place; the model itself where no path is given.

    Raises UsageError where its tensors are not the model's, ModelFileError.
    """
    if path is None:
        return file
    resident = open_model(path)
    ours = {(tensor.name, tensor.shape) for tensor in file.tensors}
    theirs = {(tensor.name, tensor.shape) for tensor in resident.tensors}
    if ours != theirs:
        raise _other_model(resident, file)
    return resident


def require_same_weights(resident: ModelFile, file: ModelFile, identity: ModelIdentity) -> None:
    """Raise UsageError unless a resident file has nearly the weights of the model.

    identity: of the model.
    """
    if resident is not file and differing_tensor(identity.samples, resident) is not None:
        raise _other_model(resident, file)


def _other_model(resident: ModelFile, file: ModelFile) -> UsageError:
    return UsageError(
        f"{resident.path} is not a file of the same model as {file.path}.",
        "give a file that was made from it, such as a Q8_0 one; one of few bits a weight is not "
        "recognised",
    )


def main_type(file: ModelFile) -> str:
    """The type of most of a file's weights."""
    sizes: dict[str, int] = {}
    for tensor in file.tensors:
        sizes[tensor.type] = sizes.get(tensor.type, 0) + tensor.weights
    return max(sizes, key=lambda name: sizes[name])
