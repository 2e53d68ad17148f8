"""A Label Studio of the few routes that the doctor asks, over real HTTP, with the answers of version 1.23."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

LEGACY = "0123456789abcdef0123456789abcdef01234567"
REFUSAL = "URL resolves to a reserved network address (block: 127.0.0.0/8)"


@dataclass
class Studio:
    """One project; what it says about backends and webhooks can be changed."""

    backends: list[dict[str, Any]] = field(default_factory=list)
    webhooks: list[dict[str, Any]] = field(default_factory=list)
    refuses_loopback: bool = False
    url: str = ""

    def attach(self, port: int, state: str = "CO") -> None:
        """As Label Studio does it: with a webhook."""
        url = f"http://127.0.0.1:{port}"
        self.backends.append({"id": 1, "url": url, "state": state, "model_version": "colour-1"})
        self.webhooks.append({"id": 1, "url": f"{url}/webhook", "is_active": True})

    def answer(self, method: str, path: str) -> tuple[int, Any]:
        match method, path:
            case "POST", "/api/ml/" if self.refuses_loopback:
                return 400, {"validation_errors": {"url": [REFUSAL]}}
            case "POST", "/api/ml/":
                return 400, {"validation_errors": {"non_field_errors": ["Can't connect to ML backend"]}}
            case _, "/api/current-user/whoami":
                return 200, {"id": 1}
            case _, "/api/projects/":
                return 200, {"results": [{"id": 7, "title": "photos"}], "next": None}
            case _, "/api/ml/":
                return 200, self.backends
            case _, "/api/webhooks/":
                return 200, self.webhooks
        return 404, {"detail": "Not found."}


def personal_token(ends_in_s: float) -> str:
    """A personal access token, unsigned."""
    parts = ({"alg": "HS256"}, {"token_type": "refresh", "exp": int(time.time() + ends_in_s)})
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + ".c2ln"


@contextmanager
def running(studio: Studio) -> Iterator[Studio]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.respond("GET")

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.respond("POST")

        def respond(self, method: str) -> None:
            path = urlsplit(self.path).path
            if path == "/api/version":
                status, body = 200, {"release": "1.23.2"}
            elif self.headers.get("Authorization") != f"Token {LEGACY}":
                status, body = 401, {"detail": "Invalid token."}
            else:
                status, body = studio.answer(method, path)
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        studio.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield studio
        finally:
            server.shutdown()
            thread.join()
