"""Runs upstream's converter on a folder: the header of the GGUF file, and its tensors, lazily."""

from __future__ import annotations

import logging
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from apex.errors import ApexError, ModelFileError, UsageError
from apex.sources.huggingface.checkpoint import Checkpoint
from apex.sources.huggingface.upstream import load_upstream, require_extra, trusts_code
from apex.sources.source import Tensor

__all__ = ["MTP", "OUT_TYPES", "Conversion", "run_converter"]

# What --outtype can be, and upstream's names for it.
OUT_TYPES = {
    "auto": "GUESSED",
    "bf16": "MOSTLY_BF16",
    "f16": "MOSTLY_F16",
    "f32": "ALL_F32",
    "q8_0": "MOSTLY_Q8_0",
}
# What can become of a multi-token-prediction head, and what upstream's classes are told.
MTP: dict[str, dict[str, bool]] = {"keep": {}, "none": {"no_mtp": True}, "only": {"mtp_only": True}}
_LOGGERS = ("hf-to-gguf", "apex_upstream", "transformers")

# Logging and imports belong to the whole process.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Conversion:
    """What the converter would write.

    Attributes:
        header: the bytes before the data, padded.
        alignment: to how many bytes tensors are aligned.
        tensors: in the order of the file.
        values: of each tensor, upstream's lazy value or an array.
        torch: the module torch.
    """

    header: bytes
    alignment: int
    tensors: tuple[Tensor, ...]
    values: tuple[Any, ...]
    torch: Any


def run_converter(
    checkpoint: Checkpoint, out_type: str, *, as_projector: bool, mtp: str, trusts: bool
) -> Conversion:
    """Convert all but the weights. Raises ModelFileError and UsageError."""
    require_extra()
    trusted = trusts_code.set(trusts)
    try:
        with _one_at_a_time, _hushed() as said:
            try:
                return _convert(checkpoint.folder, OUT_TYPES[out_type], as_projector, mtp)
            except ApexError:
                raise
            except (Exception, SystemExit) as error:
                raise _explained(checkpoint.folder, error, said) from None
    finally:
        trusts_code.reset(trusted)


def _convert(folder: Path, out_type: str, as_projector: bool, mtp: str) -> Conversion:
    upstream = load_upstream()
    torch: Any = import_module("torch")
    kind = upstream.ModelType.MMPROJ if as_projector else upstream.ModelType.TEXT
    with torch.inference_mode(), tempfile.TemporaryDirectory(prefix="apex-header-") as name:
        path = Path(name) / "header.gguf"
        settings = upstream.ModelBase.load_hparams(folder, False)
        architecture = upstream.get_model_architecture(settings, kind)
        model_class = _class_of(upstream, folder, architecture, as_projector)
        if MTP[mtp]:
            model_class = _with_mtp(model_class, folder, mtp)
        gguf = load_gguf(upstream)
        model = model_class(folder, getattr(gguf.LlamaFileType, out_type), path)
        model.prepare_tensors()
        model.prepare_metadata(vocab_only=False)
        writer = model.gguf_writer
        entries = dict(writer.tensors[0])
        writer.write_header_to_file(path=path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        header = path.read_bytes()
    alignment = int(writer.data_alignment)
    return Conversion(
        header + bytes(-len(header) % alignment),
        alignment,
        tuple(Tensor(name, _shape(info.shape), info.dtype.name) for name, info in entries.items()),
        tuple(info.tensor for info in entries.values()),
        torch,
    )


def load_gguf(upstream: ModuleType) -> Any:
    """The gguf package that upstream's converter uses."""
    return upstream.base.gguf


def _class_of(upstream: ModuleType, folder: Path, architecture: str, as_projector: bool) -> Any:
    try:
        return upstream.get_model_class(architecture, mmproj=as_projector)
    except NotImplementedError:
        pass
    if as_projector:
        raise ModelFileError(
            f"llama.cpp's converter knows no projector (mmproj) of {architecture}, which {folder} "
            "is.",
            "leave out --mmproj to convert the language model",
        )
    raise ModelFileError(
        f"llama.cpp's converter does not know the architecture {architecture} of {folder}.",
        "a newer apex may",
    )


def _with_mtp(model_class: Any, folder: Path, mtp: str) -> Any:
    """The same class, told what to do with the head."""
    if not model_class.supports_mtp_export:
        raise ModelFileError(
            f"llama.cpp's converter cannot part {folder} from a multi-token-prediction head.",
            "leave out --mtp and --no-mtp",
        )
    own = {"model_arch": model_class.model_arch, **MTP[mtp]}
    return type(model_class.__name__, (model_class,), own)


def _shape(shape: Any) -> tuple[int, ...]:
    """In ggml's order, without trailing ones."""
    result = [int(count) for count in reversed(shape)]
    while len(result) > 1 and result[-1] == 1:
        result.pop()
    return tuple(result)


def _explained(folder: Path, error: BaseException, said: list[str]) -> ApexError:
    """What upstream's failure means for the user."""
    reason = " ".join(str(error).split())
    if isinstance(error, SystemExit):
        reason = said[-1] if said else "it gave up"
    elif isinstance(error, KeyError):
        reason = str(error.args[0]) if " " in reason else f"{reason} is missing"
    elif "pre-tokenizer was not recognized" in reason:
        reason = "its tokenizer is not one of those that llama.cpp knows"
    if "trust_remote_code" in reason:
        return UsageError(
            f"{folder} wants to run Python files of its own, which is off.",
            "apex convert --trust-remote-code runs them; read them first",
        )
    reason = reason.rstrip(".") or type(error).__name__
    return ModelFileError(
        f"llama.cpp's converter does not accept {folder}: {reason}.",
        "the model may be incomplete, or newer than this apex",
    )


class _Collector(logging.Handler):
    """Keeps what upstream says of errors."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextmanager
def _hushed() -> Iterator[list[str]]:
    """While it lasts, upstream and transformers print and warn nothing; yields their errors."""
    collector = _Collector()
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    kept = [(each, each.handlers, each.propagate) for each in loggers]
    for each in loggers:
        each.handlers, each.propagate = [collector], False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield collector.texts
    finally:
        for each, handlers, propagate in kept:
            each.handlers, each.propagate = handlers, propagate
