"""A stand-in of the Hugging Face Hub on this machine: what uploads by huggingface_hub ask for."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_the_tests"


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)  # those that are stored beside git


@dataclass
class Hub:
    """What it holds, and what it is to refuse: (part of the path, status), each once."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    refusals: list[tuple[str, int]] = field(default_factory=list)
    received: int = 0  # large objects

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        for refusal in self.refusals:
            if refusal[0] in path:
                self.refusals.remove(refusal)
                return refusal[1], {"error": "refused"}
        for pattern, act in (
            (r"POST /api/repos/create", self._create),
            (r"POST /api/validate-yaml", lambda body: {"errors": [], "warnings": []}),
            (r"POST /api/models/(.+)/preupload/main", self._preupload),
            (r"POST /(.+)\.git/info/lfs/objects/batch", self._batch),
            (r"PUT /objects/(\w+)", self._put),
            (r"POST /api/models/(.+)/commit/main", self._commit),
            (r"POST /api/models/(.+)/paths-info/main", self._paths),
        ):
            match = re.fullmatch(pattern, f"{method} {path.partition('?')[0]}")
            if match:
                return 200, act(*match.groups(), body)
        return 404, {"error": f"there is no {method} {path}"}

    def _create(self, body: bytes) -> Any:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        is_private = asked.get("visibility") == "private" or asked.get("private", False)
        self.repositories.setdefault(name, Repository(is_private))
        return {"url": f"{self.address}/{name}", "name": name, "id": name}

    def _preupload(self, name: str, body: bytes) -> Any:
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".gguf") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
        }

    def _batch(self, name: str, body: bytes) -> Any:
        def entry(asked: dict[str, Any]) -> dict[str, Any]:
            found = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] in self.objects:
                return found
            return found | {
                "actions": {"upload": {"href": f"{self.address}/objects/{asked['oid']}"}}
            }

        return {"transfer": "basic", "objects": [entry(o) for o in json.loads(body)["objects"]]}

    def _put(self, digest: str, body: bytes) -> Any:
        assert hashlib.sha256(body).hexdigest() == digest
        self.objects[digest] = body
        self.received += 1
        return {}

    def _commit(self, name: str, body: bytes) -> Any:
        repository = self.repositories[name]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.objects[value["oid"]]
                repository.large.add(value["path"])
        return {"success": True, "commitOid": "0" * 40, "commitUrl": f"{self.address}/{name}"}

    def _paths(self, name: str, body: bytes) -> Any:
        repository = self.repositories[name]
        # huggingface_hub asks by a form.
        from urllib.parse import parse_qs

        asked = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode())["paths"]
        return [
            {
                "type": "file",
                "path": path,
                "size": len(repository.files[path]),
                "oid": "1" * 40,
                "lfs": {
                    "oid": hashlib.sha256(repository.files[path]).hexdigest(),
                    "size": len(repository.files[path]),
                    "pointerSize": 130,
                },
            }
            for path in asked
            if path in repository.large
        ]


@contextmanager
def standing_in() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, found = hub.answer(self.command, self.path, body)
            is_open = self.path.startswith(("/objects/", "/api/agent"))
            if not is_open and self.headers.get("authorization") != f"Bearer {TOKEN}":
                status, found = 401, {"error": "who are you?"}
            data = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = answer  # noqa: N815 - names of the standard library

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
