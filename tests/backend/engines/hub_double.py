"""A model hub on the loopback interface, over real HTTP, with the answers that huggingface_hub reads."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

LARGE = (".safetensors", ".pt", ".bin")
_RESOLVE = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")
_MODEL = re.compile(r"/api/models/(?P<repository>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?(?P<check>/auth-check)?")


class HubDouble(ThreadingHTTPServer):
    """Repositories by name, each a table of files. It can break off, damage a file, want a token, and be a login page."""

    def __init__(self, repositories: Mapping[str, Mapping[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.commit = "a" * 40
        self.asked: list[str] = []
        self.is_a_login_page = False
        self.break_after: int | None = None
        self.damaged = ""
        self.gated: set[str] = set()
        self.token: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def fetched(self) -> list[str]:
        """What was asked of files, without looking at their heads."""
        return [path for path in self.asked if "/resolve/" in path and not path.startswith("HEAD")]


def repositories_of(bundle: Path, models: Mapping[str, str]) -> dict[str, dict[str, bytes]]:
    """The folders of a bundle as repositories, by role and repository."""
    return {
        repository: {path.name: path.read_bytes() for path in (bundle / role).iterdir()} for role, repository in models.items()
    }


@contextmanager
def serving(double: HubDouble) -> Iterator[HubDouble]:
    with double:
        thread = threading.Thread(target=double.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield double
        finally:
            double.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: HubDouble

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(f"HEAD {path}" if self.command == "HEAD" else path)
        if self.server.is_a_login_page:
            return self._send(200, b"<html>Welcome to our network</html>")
        if found := _RESOLVE.fullmatch(path):
            return self._file(found["repository"], found["revision"], found["name"])
        if found := _MODEL.fullmatch(path):
            return self._model(found["repository"], found["revision"], is_check=bool(found["check"]))
        return self._send(404, b"{}")

    def _model(self, repository: str, revision: str | None, *, is_check: bool) -> None:
        if is_check and not self._is_open(repository):
            return self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        if repository not in self.server.repositories:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if revision not in (None, "main", self.server.commit):
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        files = self.server.repositories[repository]
        body = {
            "id": repository,
            "sha": self.server.commit,
            "gated": "manual" if repository in self.server.gated else False,
            "siblings": [_sibling(name, content) for name, content in files.items()],
        }
        return self._send(200, json.dumps(body).encode())

    def _file(self, repository: str, revision: str, name: str) -> None:
        if not self._is_open(repository):
            return self._send(403, b"", {"X-Error-Code": "GatedRepo"})
        if revision != self.server.commit:
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        content = self.server.repositories[repository][name]
        headers = {"ETag": f'"{_digest(name, content)}"', "X-Repo-Commit": self.server.commit, "Accept-Ranges": "bytes"}
        start = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
        sent = content[start:] if name != self.server.damaged else b"x" * len(content[start:])
        if self.server.break_after is not None and len(content) > 1000 and self.command == "GET":
            self._send(200, sent, headers, most=self.server.break_after)
            self.close_connection = True
            return None
        return self._send(206 if start else 200, sent, headers)

    def _is_open(self, repository: str) -> bool:
        authorization = self.headers.get("Authorization")
        return repository not in self.server.gated or authorization == f"Bearer {self.server.token}"

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None, most: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:most])


def _sibling(name: str, content: bytes) -> dict[str, Any]:
    if name.endswith(LARGE):
        lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return {"rfilename": name, "size": len(content), "blobId": "pointer", "lfs": lfs}
    return {"rfilename": name, "size": len(content), "blobId": _digest(name, content)}


def _digest(name: str, content: bytes) -> str:
    if name.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
