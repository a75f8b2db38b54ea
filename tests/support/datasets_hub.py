"""A stand-in for servers of data sets: files, what is said of them, and what can go wrong."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class File:
    """What is sent, and how.

    Attributes:
        headers: beside the length; those of a redirect go with that.
        is_elsewhere: the first answer sends the client to another address.
        failures: how often it is refused first, with status 429.
        cut: how many bytes are missing at the end.
    """

    data: bytes
    headers: dict[str, str] = field(default_factory=dict)
    is_elsewhere: bool = False
    failures: int = 0
    cut: int = 0


def large(data: bytes) -> File:
    """As the Hub has what is stored beside git."""
    tag = hashlib.sha256(data).hexdigest()
    return File(data, {"X-Linked-Etag": f'"{tag}"'}, is_elsewhere=True)


def small(data: bytes) -> File:
    """As the Hub has what is stored in git."""
    return File(
        data, {"ETag": f'"{hashlib.sha1(b"blob %d" % len(data) + bytes(1) + data).hexdigest()}"'}
    )


@dataclass
class DatasetsHub:
    """The files by their paths, and how often each was sent."""

    url: str = ""
    files: dict[str, File] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)


@contextmanager
def serving() -> Iterator[DatasetsHub]:
    hub = DatasetsHub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

        def do_GET(self) -> None:
            path = self.path.removeprefix("/elsewhere")
            file = hub.files.get(path)
            if file is None:
                self.answer(404, b"")
            elif file.failures:
                file.failures -= 1
                self.answer(429, b"", {"Retry-After": "0"})
            elif file.is_elsewhere and path == self.path:
                self.answer(302, b"", {**file.headers, "Location": f"{hub.url}/elsewhere{path}"})
            else:
                hub.sent[path] += 1
                headers = {"ETag": '"of another kind"'} if file.is_elsewhere else file.headers
                self.answer(200, file.data, headers, cut=file.cut)

        def answer(
            self, status: int, data: bytes, headers: dict[str, str] | None = None, cut: int = 0
        ) -> None:
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data[: len(data) - cut])

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
