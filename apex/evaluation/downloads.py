"""Small public files by their addresses, and the checksums that the Hub has of them."""

from __future__ import annotations

import hashlib
import http.client
import re
import time
from dataclasses import dataclass
from email.message import Message
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from apex.errors import UsageError

__all__ = ["Download", "download"]

_MOST_BYTES = 1 << 28
_SECONDS = 60.0
_ATTEMPTS = 4
_RETRIED = (429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Download:
    """A file, and its SHA-256 as whoever has it says; None where nobody does."""

    data: bytes
    sha256: str | None


class _Watcher(HTTPRedirectHandler):
    """Keeps the checksum that the Hub says before it sends us to where the file is."""

    linked: str | None = None

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> Request | None:
        self.linked = self.linked or headers.get("X-Linked-Etag")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def download(url: str, *, needs_checksum: bool) -> Download:
    """Fetch a file. Raises UsageError.

    needs_checksum: refuse a file of which the server says no checksum, or another one. The Hub says
    the SHA-256 of what is stored beside git, and the name that git has for everything else.
    """
    data, tag = _fetch(url)
    if not needs_checksum:
        return Download(data, None)
    digest = hashlib.sha256(data).hexdigest()
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    if re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", tag) is None:
        raise UsageError(f"{url} comes without a checksum.")
    if tag not in (digest, blob):
        raise UsageError(f"{url} was damaged on its way: its checksum is another one.")
    return Download(data, digest)


def _fetch(url: str) -> tuple[bytes, str]:
    """The file, and what the server says to tell versions apart."""
    for attempt in range(_ATTEMPTS):
        watcher = _Watcher()
        try:
            request = Request(url, headers={"Accept-Encoding": "identity"})
            with build_opener(watcher).open(request, timeout=_SECONDS) as answer:
                data: bytes = answer.read(_MOST_BYTES + 1)
                size = answer.headers.get("Content-Length")
                tag = watcher.linked or answer.headers.get("ETag") or ""
        except HTTPError as error:
            if error.code in _RETRIED and attempt + 1 < _ATTEMPTS:
                time.sleep(_pause(error.headers, attempt))
                continue
            raise UsageError(f"{url} cannot be fetched: status {error.code}.") from None
        except (URLError, OSError, http.client.HTTPException, ValueError) as error:
            cause = getattr(error, "reason", error)
            reason = str(getattr(cause, "strerror", None) or cause) or type(error).__name__
            raise UsageError(f"{url} cannot be fetched: {reason.rstrip('.')}.") from None
        if len(data) > _MOST_BYTES or (size is not None and int(size) != len(data)):
            raise UsageError(f"{url} cannot be fetched: it is cut off, or too large.")
        return data, tag.removeprefix("W/").strip('"')
    raise AssertionError


def _pause(headers: Message, attempt: int) -> float:
    """Seconds that the server asks us to wait, within reason; else a few more each time."""
    asked = headers.get("Retry-After") or ""
    return min(float(asked), _SECONDS) if asked.isdigit() else 2.0**attempt
