"""Opens what a name or a plan means: a GGUF file, a Hugging Face folder, a model of the Hub."""

from __future__ import annotations

import os
from pathlib import Path

from apex.errors import ModelFileError
from apex.sources.gguf import ModelFile, open_model
from apex.sources.huggingface import HuggingFaceModel, is_hub_id, open_huggingface
from apex.sources.source import Source, SourceReference

__all__ = ["Model", "check_same", "open_source", "require_file"]

# What can be named by a path.
Model = ModelFile | HuggingFaceModel


def open_source(model: str | os.PathLike[str] | SourceReference) -> Model:
    """The model at a path, or the one that a plan was made for, which must not have changed.

    A folder is one of Hugging Face. ``OWNER/NAME`` or ``OWNER/NAME@REVISION`` is a model of the
    Hub, unless it is a path of something here. Everything else is a GGUF file.

    Raises ModelFileError, and UsageError where the extra ``hf`` is needed and not installed.
    """
    if not isinstance(model, SourceReference):
        is_huggingface = Path(model).is_dir() or is_hub_id(model)
        return open_huggingface(model) if is_huggingface else open_model(model)
    if model.kind not in ("gguf", "huggingface"):
        raise ModelFileError(
            f"{model.name} is not a GGUF file ({model.kind}).",
            "give the source itself beside the plan",
        )
    source = open_source(model.location)
    check_same(source, model)
    return source


def require_file(model: Model) -> ModelFile:
    """The model if it is a GGUF file, for what must run it. Raises ModelFileError."""
    if isinstance(model, HuggingFaceModel):
        raise ModelFileError(
            f"{model.path} is a Hugging Face model, and running a model takes a GGUF file.",
            f"apex convert {model.path} -o model.gguf makes one",
        )
    return model


def check_same(source: Source, reference: SourceReference) -> None:
    """Raise ModelFileError unless this is the source that the plan was made for."""
    if source.reference.digest != reference.digest:
        raise ModelFileError(
            f"{source.reference.location} is not the model that the plan was made for, or has "
            "changed since.",
            "make the plan again",
        )
