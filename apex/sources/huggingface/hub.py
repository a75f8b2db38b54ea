"""Models of the Hub: headers by range requests, weights when they are needed."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from apex.errors import ApexError, ModelFileError
from apex.sources.huggingface.checkpoint import READ_SUFFIXES, safetensors_names
from apex.sources.huggingface.upstream import require_extra

__all__ = ["HubFolder", "OnFetched", "explained", "is_hub_id", "is_huggingface"]

# (bytes that are here, bytes in all, the file)
OnFetched = Callable[[int, int, str], None] | None

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?", re.ASCII)
# Nearly all headers are shorter; one more request brings those that are not.
_FIRST_BYTES = 1 << 17
_RETRIED = (429, 500, 502, 503, 504)
_REQUESTS = 8
_NO_TOKEN = "log in with hf auth login, or set HF_TOKEN"


def is_huggingface(model: str | os.PathLike[str]) -> bool:
    """Whether this is a folder, or written as an ID of the Hub."""
    is_folder = os.path.isdir(model)  # noqa: PTH112 - no error where nobody may look
    return is_folder or is_hub_id(model)


def is_hub_id(model: str | os.PathLike[str]) -> bool:
    """Whether this is written as the Hub's IDs are, ``OWNER/NAME`` or ``OWNER/NAME@REVISION``.

    What exists here under that name is meant first, and a GGUF file is never one.
    """
    text = os.fspath(model)
    if text.endswith(".gguf") or os.path.lexists(text):
        return False
    return _ID.fullmatch(text) is not None


class HubFolder:
    """A folder that looks like a model of the Hub, whose safetensors files have only headers.

    What follows the headers are holes, which take no place on the disk. The folder is removed with
    this object.

    Attributes:
        location: the ID with the commit that it had when it was opened.
        name: the ID without its owner.
        path: the folder.
    """

    def __init__(self, text: str) -> None:
        """Ask the Hub for everything but the weights. Raises ModelFileError and UsageError."""
        require_extra()
        self._id, _, revision = text.partition("@")
        self._hub: Any = import_module("huggingface_hub")
        self._real: dict[str, Path] = {}
        with self._explaining():
            info = self._hub.HfApi().model_info(
                self._id, revision=revision or None, files_metadata=True
            )
            self._commit = str(info.sha)
        sizes = {each.rfilename: int(each.size or 0) for each in info.siblings}
        self._sizes = {name: size for name, size in sizes.items() if "/" not in name}
        self.location = f"{self._id}@{self._commit}"
        self.name = self._id.partition("/")[2]
        self._folder = tempfile.TemporaryDirectory(prefix="apex-hub-")
        self.path = Path(self._folder.name) / self.name  # upstream takes names from it
        self.path.mkdir()
        with self.naming():
            self._fill()

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Errors about the folder become errors about the model of the Hub."""
        try:
            yield
        except ApexError as error:
            message = error.message.replace(str(self.path), self.location)
            raise type(error)(message, error.hint) from None

    def file(self, name: str) -> Path:
        """Where a safetensors file is; downloads it if it is not here. From any thread.

        It goes to the Hub library's cache. Raises ModelFileError.
        """
        with self._locks[name]:
            if name not in self._real:
                path = self._download(name)
                if path.stat().st_size != self._sizes[name]:
                    raise ModelFileError(
                        f"{path} is not what the Hub has as {name}: it has {path.stat().st_size} "
                        f"of {self._sizes[name]} bytes.",
                        "delete it, then try it again",
                    )
                self._real[name] = path
            return self._real[name]

    def fetch(self, progress: OnFetched = None) -> None:
        """Download all safetensors files that are not here. Raises ModelFileError."""
        done, total = 0, sum(self._sizes[name] for name in self._locks)
        for name in self._locks:
            self.file(name)
            done += self._sizes[name]
            if progress is not None:
                progress(done, total, name)

    def _fill(self) -> None:
        weights = {name for name in self._sizes if name.endswith(".safetensors")}
        small = [n for n in self._sizes if n.endswith(READ_SUFFIXES) and n not in weights]
        with ThreadPoolExecutor(_REQUESTS) as pool:
            for name, path in zip(small, pool.map(self._download, small), strict=True):
                (self.path / name).symlink_to(path)
            for name in self._sizes.keys() - weights - set(small):
                (self.path / name).touch()  # such as pickles: that they are there is what counts
            found = safetensors_names(self.path, weights)
            self._locks = {name: threading.Lock() for name in found}
            for _ in pool.map(self._write_header, found):
                pass

    def _download(self, name: str) -> Path:
        with self._explaining(), _without_bars(self._hub):
            return Path(self._hub.hf_hub_download(self._id, name, revision=self._commit)).resolve()

    def _write_header(self, name: str) -> None:
        size = self._sizes[name]
        data = self._range(name, 0, min(_FIRST_BYTES, size))
        length = int.from_bytes(data[:8], "little")
        if len(data) < 8 + length <= size:
            data += self._range(name, len(data), 8 + length)
        with (self.path / name).open("wb") as file:
            file.write(data[: 8 + length])
            file.truncate(size)

    def _range(self, name: str, start: int, end: int) -> bytes:
        if end <= start:
            return b""
        utils = self._hub.utils
        with self._explaining():
            response = utils.http_backoff(
                "GET",
                self._hub.hf_hub_url(self._id, name, revision=self._commit),
                headers={**utils.build_hf_headers(), "Range": f"bytes={start}-{end - 1}"},
                retry_on_status_codes=_RETRIED,
                **_redirects(utils),
            )
            utils.hf_raise_for_status(response)
            data: bytes = response.content
        if len(data) != end - start:
            raise ModelFileError(
                f"The Hub sent {len(data)} of {end - start} bytes of {name}.", "try it again"
            )
        return data

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """What the Hub library raises becomes one sentence."""
        try:
            yield
        except ApexError:
            raise
        except Exception as error:
            raise explained(self._id, error) from None


def _redirects(utils: Any) -> dict[str, bool]:
    """Files of the Hub lie elsewhere; httpx, since version 1, is told to follow."""
    return {"follow_redirects": True} if hasattr(utils, "httpx") else {}


def explained(model: str, error: Exception) -> ModelFileError:
    """What the Hub library raised, as one sentence."""
    kinds = {each.__name__ for each in type(error).__mro__}
    if "GatedRepoError" in kinds:
        return ModelFileError(
            f"{model} is gated: the Hub wants its conditions accepted.",
            f"accept them on its page, then {_NO_TOKEN}",
        )
    if "RevisionNotFoundError" in kinds:
        return ModelFileError(f"{model} has no such revision on the Hub.", "check what follows @")
    if "EntryNotFoundError" in kinds:
        return ModelFileError(f"The Hub does not have {model}.", "check the name of the file")
    if "RepositoryNotFoundError" in kinds:
        return ModelFileError(
            f"{model} is not a file or folder here, and not a public model of the Hub.",
            f"check the name; for a private model {_NO_TOKEN}",
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return ModelFileError(
            f"The Hub refuses {model} with status {status}.", "wait a while, then try it again"
        )
    if isinstance(error, OSError) and error.errno == 28:
        return ModelFileError(
            f"The disk became full while {model} was downloaded.",
            "free some space, or set HF_HOME to a larger disk; what is here is kept",
        )
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return ModelFileError(
        f"{model} is not here, and the Hub cannot be reached: {reason}.",
        "check the network and HF_ENDPOINT; what was downloaded is kept",
    )


@contextmanager
def _without_bars(hub: Any) -> Iterator[None]:
    """While it lasts, the Hub library shows no progress of its own."""
    if hub.utils.are_progress_bars_disabled():
        yield
        return
    hub.utils.disable_progress_bars()
    try:
        yield
    finally:
        hub.utils.enable_progress_bars()
