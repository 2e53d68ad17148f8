"""Real HTTP servers on loopback: any file server, and a Label Studio that checks tokens as the real one does."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LEGACY_TOKEN = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Answer:
    """What a page answers; ``content_length`` other than the body's is a lie, and None leaves it out."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content_length: int | None = -1


class Request(BaseHTTPRequestHandler):
    """A request with the body that was posted."""

    posted = b""


Page = Callable[[Request], Answer]


class Server:
    """Pages by path on a port of their own; every request is written down."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        server = self

        class Handler(Request):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server._answer(self)

            do_POST = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def serve(self, path: str, body: bytes, **headers: str) -> None:
        self.pages[path] = lambda request: Answer(body, headers={k.replace("_", "-"): v for k, v in headers.items()})

    def count(self, path: str) -> int:
        """How often a path was asked for, whatever its query."""
        return sum(asked.partition("?")[0] == path for asked, _ in self.requests)

    def sent(self, header: str) -> list[str | None]:
        """One header of every request, in order."""
        return [headers.get(header.lower()) for _, headers in self.requests]

    def page(self, request: Request) -> Answer:
        page = self.pages.get(request.path) or self.pages.get(request.path.partition("?")[0])
        return page(request) if page else Answer(b"nothing here", 404)

    def _answer(self, request: Request) -> None:
        self.requests.append((request.path, {name.lower(): value for name, value in request.headers.items()}))
        request.posted = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        answer = self.page(request)
        request.send_response(answer.status)
        for name, value in answer.headers.items():
            request.send_header(name, value)
        if answer.content_length is None:
            request.close_connection = True
        else:
            length = len(answer.body) if answer.content_length < 0 else answer.content_length
            request.send_header("Content-Length", str(length))
            request.close_connection = length != len(answer.body)
        request.end_headers()
        try:
            request.wfile.write(answer.body)
        except (BrokenPipeError, ConnectionResetError):
            request.close_connection = True


class Studio(Server):
    """A Label Studio: pages need a token; a personal access token is exchanged for one that says that it lives ``lifetime_s``
    and is accepted for ``grace_s`` more.
    """

    def __init__(self, *, legacy: bool = True, lifetime_s: float = 300) -> None:
        super().__init__()
        self.legacy = legacy
        self.lifetime_s = lifetime_s
        self.grace_s = 0.0
        self.personal_token = make_jwt("refresh", 3600 * 24 * 365)
        self.issued: dict[str, float] = {}
        self.exchange_pause_s = 0.0
        self._lock = threading.Lock()

    def page(self, request: Request) -> Answer:
        if request.path == "/api/token/refresh/":
            return self._exchange(request)
        if not self.accepts(request.headers.get("Authorization", "")):
            return Answer(b'{"detail": "Authentication credentials were not provided."}', 401)
        return super().page(request)

    def accepts(self, authorization: str) -> bool:
        kind, _, token = authorization.partition(" ")
        if kind == "Token":
            return self.legacy and token == LEGACY_TOKEN
        with self._lock:
            return kind == "Bearer" and time.monotonic() < self.issued.get(token, 0)

    def revoke(self) -> None:
        """End all access tokens before their time."""
        with self._lock:
            self.issued.clear()

    def _exchange(self, request: Request) -> Answer:
        asked = json.loads(request.posted)
        time.sleep(self.exchange_pause_s)
        if asked != {"refresh": self.personal_token}:
            return Answer(b'{"detail": "Token is invalid", "code": "token_not_valid"}', 401)
        with self._lock:
            access = make_jwt("access", self.lifetime_s, len(self.issued))
            self.issued[access] = time.monotonic() + self.lifetime_s + self.grace_s
        return Answer(json.dumps({"access": access}).encode(), headers={"Content-Type": "application/json"})


def make_jwt(kind: str, lifetime_s: float, number: int = 0) -> str:
    """A token like those of Label Studio (djangorestframework-simplejwt), with a signature that nobody checks here."""
    now = time.time()
    claims = {"token_type": kind, "exp": now + lifetime_s, "iat": now, "jti": f"{number:032x}", "user_id": "1"}
    parts = [json.dumps({"alg": "HS256", "typ": "JWT"}).encode(), json.dumps(claims).encode(), b"signature"]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
