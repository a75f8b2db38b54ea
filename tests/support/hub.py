"""A stand-in of the Hub on this machine: metadata, files, ranges, and what can go wrong."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves one folder as the model ``owner/name``.

    Attributes:
        sent: bytes of each file that were sent.
        failures: how often each request for a part of a file is refused first, with status 429.
        refusal: (status, X-Error-Code) of all answers, or None.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.sent: Counter[str] = Counter()
        self.failures = 0
        self.refusal: tuple[int, str] | None = None
        self.refused: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    """The stand-in, while it lasts."""
    with Hub(folder) as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        if self.server.refusal is not None:
            status, code = self.server.refusal
            self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})
        elif match := re.fullmatch(r"/api/models/owner/name(?:/revision/(.+))?", path):
            if match[1] in (None, "main", COMMIT):
                self._send(200, self._info(), {"Content-Type": "application/json"})
            else:
                self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif match := re.fullmatch(rf"/owner/name/resolve/{COMMIT}/([\w.-]+)", path):
            self._send_file(match[1], with_body=with_body)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _info(self) -> bytes:
        files = [
            {"rfilename": path.name, "size": path.stat().st_size}
            for path in sorted(self.server.folder.iterdir())
        ]
        data = {"id": "owner/name", "sha": COMMIT, "siblings": files, "tags": []}
        return json.dumps({**data, "private": False, "downloads": 0, "likes": 0}).encode()

    def _send_file(self, name: str, *, with_body: bool) -> None:
        path = self.server.folder / name
        if not path.is_file():
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        size = path.stat().st_size
        tag = hashlib.sha256(f"{name} {size}".encode()).hexdigest()
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if not with_body:
            self._send(200, b"", {**headers, "Content-Length": str(size)})
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, end = (int(asked[1]), int(asked[2] or size - 1) + 1) if asked else (0, size)
        if asked and self.server.refused[self.path] < self.server.failures:
            self.server.refused[self.path] += 1
            self._send(429, b"{}", {"Retry-After": "0"})
            return
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(end - start)
        self.server.sent[name] += len(data)
        if asked:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        self._send(206 if asked else 200, data, headers)

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)
