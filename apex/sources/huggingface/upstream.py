"""llama.cpp's converter and its gguf package, loaded under names of their own.

They are those of the pinned tree. An installed ``gguf`` may be older and is left alone: inside
these modules, and nowhere else, ``import gguf`` means the one beside them.
"""

from __future__ import annotations

import builtins
import os
import sys
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import apex
from apex.errors import UsageError

__all__ = ["load_upstream", "require_extra", "trusts_code"]

_NAME = "apex_upstream"
_PACKAGES = ("conversion", "gguf")
_REQUIREMENTS = ("torch", "transformers", "safetensors", "sentencepiece", "google.protobuf")

# Whether a model's own Python files may be run, as some tokenizers want.
trusts_code: ContextVar[bool] = ContextVar("trusts_code", default=False)


def require_extra() -> None:
    """Raise UsageError unless everything that upstream's converter imports is installed."""
    missing = [name for name in _REQUIREMENTS if not _is_installed(name)]
    if missing:
        raise UsageError(
            f"Reading a Hugging Face model needs {', '.join(missing)}.".replace("google.", ""),
            "pip install 'apex-quant[hf]' brings what is needed",
        )


def load_upstream() -> ModuleType:
    """Upstream's package ``conversion``. Raises UsageError where it cannot be imported."""
    require_extra()
    if _NAME not in sys.modules:
        _register()
    # What upstream's modules do when they are imported: they put gguf-py on the path.
    path, local = sys.path[:], os.environ.get("NO_LOCAL_GGUF")
    os.environ["NO_LOCAL_GGUF"] = "1"
    try:
        return import_module(f"{_NAME}.conversion")
    except ImportError as error:
        raise UsageError(
            f"llama.cpp's converter cannot be imported: {error}.",
            "pip install --upgrade 'apex-quant[hf]' brings what it needs",
        ) from None
    finally:
        sys.path[:] = path
        if local is None:
            del os.environ["NO_LOCAL_GGUF"]
        else:
            os.environ["NO_LOCAL_GGUF"] = local


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # of the package above it
        return False


def _register() -> None:
    roots = [Path(folder) / "_upstream" for folder in apex.__path__]  # of a wheel
    roots += [Path(folder).parent / "vendor" / "llama.cpp" for folder in apex.__path__]
    for root in roots:
        paths = [root, root / "gguf-py"]
        if (root / "conversion").is_dir() and any((p / "gguf").is_dir() for p in paths):
            package = ModuleType(_NAME)
            package.__path__ = [str(path) for path in paths]
            sys.modules[_NAME] = package
            sys.meta_path.insert(0, _Finder())
            return
    raise UsageError(
        "llama.cpp's converter is missing from this installation of apex.",
        "install apex again; its build brings llama.cpp's sources",
    )


class _Finder(MetaPathFinder):
    """Finds upstream's modules below ``_NAME``."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """The module's spec, with our loader."""
        if not fullname.startswith(_NAME + "."):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin)
        return spec


class _Loader(SourceFileLoader):
    """Gives a module an ``import`` of its own."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module."""
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _import}
        super().exec_module(module)


def _import(
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> Any:
    """What ``import`` means in upstream's modules."""
    head = name.partition(".")[0]
    if level == 0 and head in _PACKAGES:
        found = builtins.__import__(f"{_NAME}.{name}", globals, locals, fromlist or (), 0)
        return found if fromlist else sys.modules[f"{_NAME}.{head}"]
    module = builtins.__import__(name, globals, locals, fromlist or (), level)
    if level == 0 and name == "transformers":
        return _Transformers(module)
    return module


class _Transformers(SimpleNamespace):
    """transformers, without running Python files of models that are not trusted."""

    def __init__(self, module: ModuleType) -> None:
        super().__init__(_module=module)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        return _Auto(value) if name in ("AutoConfig", "AutoTokenizer", "AutoProcessor") else value


class _Auto:
    """A class such as AutoTokenizer, whose ``from_pretrained`` asks ``trusts_code``."""

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    def from_pretrained(self, *arguments: Any, **options: Any) -> Any:
        """As transformers has it."""
        wanted = bool(options.get("trust_remote_code"))
        options["trust_remote_code"] = wanted and trusts_code.get()
        return self._wrapped.from_pretrained(*arguments, **options)
