"""Single GGUF files of the Hub, which need no more than the Hub's own library."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from apex.errors import UsageError
from apex.sources.huggingface.hub import explained

__all__ = ["HubFile", "is_hub_file"]

_FILE = re.compile(
    r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w.-]+))?/([\w./-]+\.gguf)", re.ASCII
)
_FIRST_SHARD = re.compile(r"-00001-of-(\d{5})\.gguf$")


def is_hub_file(path: str | os.PathLike[str]) -> bool:
    """Whether this is written as OWNER/NAME/FILE.gguf, and is not a path of something here."""
    text = os.fspath(path)
    return not os.path.lexists(text) and _FILE.fullmatch(text) is not None


class HubFile:
    """A GGUF file of the Hub, with the commit that it had when this was made.

    Attributes:
        location: OWNER/NAME@COMMIT/FILE.gguf.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Ask the Hub for the commit. Raises ModelFileError, and UsageError without its library."""
        match = _FILE.fullmatch(os.fspath(path))
        if match is None:
            raise UsageError(f"{path} is not a file of the Hub.", "write OWNER/NAME/FILE.gguf")
        self._id, revision, self._name = match.groups()
        try:
            self._hub: Any = import_module("huggingface_hub")
        except ImportError:
            raise UsageError(
                f"{path} is not here, and files of the Hub need huggingface_hub.",
                "check the path, or pip install 'apex-quant[hf]'",
            ) from None
        try:
            self._commit = str(self._hub.HfApi().model_info(self._id, revision=revision).sha)
        except Exception as error:
            raise explained(self._id, error) from None
        self.location = f"{self._id}@{self._commit}/{self._name}"

    def fetch(self, progress: Callable[[int, int, str], None]) -> Path:
        """Where it is, or its first shard; what is not in the cache is downloaded.

        progress: called with files that are here, files in all, and the next one's name. Raises
        ModelFileError.
        """
        found = []
        names = _shards(self._name)
        for index, name in enumerate(names):
            progress(index, len(names), name)
            try:
                path = self._hub.hf_hub_download(self._id, name, revision=self._commit)
            except Exception as error:
                raise explained(f"{self._id}/{name}", error) from None
            found.append(Path(path))  # as the cache calls it: shards find each other by name
        progress(len(names), len(names), self._name)
        return found[0]


def _shards(name: str) -> list[str]:
    match = _FIRST_SHARD.search(name)
    if match is None:
        return [name]
    stem, count = name[: match.start()], match[1]
    return [f"{stem}-{index:05d}-of-{count}.gguf" for index in range(1, int(count) + 1)]
