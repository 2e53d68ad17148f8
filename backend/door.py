"""The door of the server: who may come in, how much a request may bring, and what is counted of all that knock."""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from backend.telemetry import TRACING
from backend.values.errors import SetupError, missing_extra
from backend.values.settings import MEBIBYTE, Settings

PROBES = frozenset({"/", "/health", "/livez", "/readyz"})
"""Answered without credentials: probes have none."""
WEBHOOK = "/webhook"
ADMINISTRATIVE = ("/engine", "/jobs", "/memory")
"""They change what all annotators get, or write with our token."""
KNOWN_PATHS = frozenset({*PROBES, WEBHOOK, "/setup", "/versions", "/predict", "/metrics", *ADMINISTRATIVE})
MOST_BODY_BYTES = {"/predict": 64 * MEBIBYTE, WEBHOOK: 16 * MEBIBYTE}
MOST_OTHER_BYTES = MEBIBYTE
MOST_CONTAINERS = 1_000_000
MOST_QUOTES = 8_000_000
MOST_DEPTH = 64
"""Lists and objects, quotation marks, and lists within lists of a body: parsed, each takes up to fifty times its bytes."""
MOST_HELD_BYTES = 256 * MEBIBYTE
"""Of the bodies of all requests that are being read or answered."""
BODY_IDLE_S = 30.0
"""How long a body may pause before its request is refused."""
DRAINED_BYTES = 1024 * MEBIBYTE
DRAIN_IDLE_S, DRAIN_S = 5.0, 30.0
"""What is read and thrown away of a refused body after the answer, and how long one pause and all of it may take: a connection
that closes on unread bytes is reset, and most callers read no answer before they have sent everything (RFC 9112, section 9.6).
"""
RETRY_AFTER_S = 2
MOST_ANSWERING = 512
"""Requests to ``/predict`` that are being answered or wait for it."""
COLLECTOR_S = 2.0
"""How long a collector of spans may take."""
_LATER = {"retry-after": str(RETRY_AFTER_S)}
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Rules:
    """Who may come in: everybody, or those who know ``login`` (user and password). Webhooks may want a ``webhook_secret`` of
    their own. Administration is closed where strangers could reach it without a login.
    """

    login: tuple[str, str] | None = field(default=None, repr=False)
    webhook_secret: str | None = field(default=None, repr=False)
    is_administration_open: bool = True

    @classmethod
    def of(cls, settings: Settings, host: str) -> Rules:
        """By the settings and the address that the server listens on. Raises SetupError for half a login."""
        user = settings.basic_auth_user
        password = settings.basic_auth_pass.get_secret_value() if settings.basic_auth_pass else None
        if bool(user) != bool(password):
            raise SetupError(
                "set both MASKLOOM_BASIC_AUTH_USER and MASKLOOM_BASIC_AUTH_PASS, or neither: one alone protects nothing"
            )
        login = (user, password) if user and password else None
        secret = settings.webhook_secret.get_secret_value() if settings.webhook_secret else None
        return cls(login, secret or None, login is not None or is_this_machine(host))


class _Refused(Exception):
    """A request that is not let in."""

    def __init__(self, status: int, reason: str, **headers: str) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = headers


class Door:
    """Stands before an ASGI application: refuses strangers, reads bodies within bounds, and counts every request, those that
    are refused or fail as well.
    """

    def __init__(self, app: App, rules: Rules, registry: CollectorRegistry) -> None:
        self._app = app
        self._rules = rules
        self.held = 0
        self.answering = 0
        for name, meaning, level in (
            ("requests_waiting", "Requests to /predict that are being answered or wait for it.", lambda: self.answering),
            ("body_bytes", "Bytes of bodies that are being read or answered.", lambda: self.held),
        ):
            Gauge(f"maskloom_{name}", meaning, registry=registry).set_function(level)
        self._requests = Counter("maskloom_requests", "Requests.", ["path", "status"], registry=registry)
        self._seconds = Histogram("maskloom_request_seconds", "Time to answer a request.", ["path"], registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, arriving = time.perf_counter(), 0, _Arriving(scope, receive)

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        path = scope["path"] if scope["path"] in KNOWN_PATHS else "other"
        try:
            with TRACING.span(f"{scope['method']} {path}"):
                await self._let_in(scope, arriving, watched)
        except asyncio.CancelledError:  # the server ends, and has waited for this answer as long as it may
            arriving.is_over = True
            if not status:
                await _answer(_Refused(503, "the server is ending", **_LATER), arriving, watched)
        finally:
            self._requests.labels(path, str(status or 500)).inc()
            self._seconds.labels(path).observe(time.perf_counter() - started)

    async def _let_in(self, scope: Scope, arriving: _Arriving, send: Send) -> None:
        held: list[int] = []
        try:
            self._check_caller(scope)
            body = await self._read(scope["path"], arriving, held)
            _check_shape(scope["path"], body)
            with self._place(scope["path"]):
                await self._app(scope, _replayed(body, arriving.receive), send)
            return
        except _Refused as error:
            refused = error.with_traceback(None)  # whose frames hold what was read
        finally:
            self.held -= sum(held)
        await _answer(refused, arriving, send)

    @contextmanager
    def _place(self, path: str) -> Iterator[None]:
        """A place among those who wait for answers of the engine. Raises _Refused when there is none."""
        counts = path == "/predict"
        if counts and self.answering >= MOST_ANSWERING:
            raise _Refused(503, f"{MOST_ANSWERING} requests are being answered or wait already", **_LATER)
        self.answering += counts
        try:
            yield
        finally:
            self.answering -= counts

    def _check_caller(self, scope: Scope) -> None:
        """Raises _Refused. The path is the one that the application sees, whatever the caller calls the host."""
        path = scope["path"]
        if path in PROBES:
            return
        headers = dict(scope["headers"])
        if path == WEBHOOK and self._is_from_label_studio(scope, headers):
            return
        if self._rules.login is not None or path == WEBHOOK:
            if self._rules.login is None or not _knows(self._rules.login, headers.get(b"authorization", b"")):
                wanted = "the webhook's secret" if path == WEBHOOK else "a user and a password (Basic authentication)"
                raise _Refused(401, f"this Maskloom server wants {wanted}", **{"www-authenticate": "Basic"})
        elif path.startswith(ADMINISTRATIVE) and not self._rules.is_administration_open:
            raise _Refused(
                403,
                f"{path} is closed on a server that others can reach without a login; "
                "set MASKLOOM_BASIC_AUTH_USER and MASKLOOM_BASIC_AUTH_PASS",
            )

    def _is_from_label_studio(self, scope: Scope, headers: dict[bytes, bytes]) -> bool:
        """Webhooks carry no login; where there is a secret it is in the address or in a header that Label Studio was told."""
        secret = self._rules.webhook_secret
        if secret is None:
            return True
        asked = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("secret", [""])[0]
        given = (asked.encode(), headers.get(b"x-maskloom-secret", b""))
        return any(secrets.compare_digest(each, secret.encode()) for each in given)

    async def _read(self, path: str, arriving: _Arriving, held: list[int]) -> bytes:
        """The whole body; ``held`` gets the bytes that it takes of what all bodies may take. Raises _Refused."""
        most = MOST_BODY_BYTES.get(path, MOST_OTHER_BYTES)
        if arriving.announced > most:
            raise _too_large(path, most)
        pieces: list[bytes] = []
        while not arriving.is_over:
            try:
                piece = await asyncio.wait_for(arriving.next(), BODY_IDLE_S)
            except TimeoutError as error:
                raise _Refused(408, f"the body of {path} paused for {BODY_IDLE_S:g} seconds") from error
            if sum(held) + len(piece) > most:
                raise _too_large(path, most)
            if self.held + len(piece) > MOST_HELD_BYTES:
                raise _Refused(503, "too many large requests at once", **_LATER)
            self.held += len(piece)
            held.append(len(piece))
            pieces.append(piece)
        if arriving.is_gone:
            raise _Refused(400, "the request ended before its body")
        return b"".join(pieces)


class _Arriving:
    """The body of a request, piece by piece; ``announced`` is its length in bytes, or 0 where that is not told. It ``is_over``
    when nothing more comes: that was all, or the caller ``is_gone``.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        self.announced = int(length) if length.isdigit() else 0
        self.has_body = self.announced > 0 or b"transfer-encoding" in headers
        self.is_over = self.is_gone = False
        self.receive = receive

    async def next(self) -> bytes:
        message = await self.receive()
        self.is_gone = message["type"] == "http.disconnect"
        self.is_over = self.is_gone or not message.get("more_body")
        return bytes(message.get("body", b""))

    async def throw_away(self) -> None:
        """Read what is left, within bounds of bytes and time."""
        read, end = 0, time.monotonic() + DRAIN_S
        with suppress(TimeoutError):
            while not self.is_over and read < DRAINED_BYTES and (left := end - time.monotonic()) > 0:
                read += len(await asyncio.wait_for(self.next(), min(DRAIN_IDLE_S, left)))


def collect_spans(url: str) -> Callable[[], None]:
    """Send spans of requests and of their stages to a collector, by OTLP over HTTP; the answer ends that. Raises SetupError
    without the extra.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise missing_extra("telemetry", "MASKLOOM_TRACES_URL needs OpenTelemetry", error) from error
    provider = TracerProvider(resource=Resource.create({"service.name": "maskloom"}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url, timeout=COLLECTOR_S)))
    TRACING.tracer = provider.get_tracer("maskloom")

    def end() -> None:
        TRACING.tracer = None
        provider.shutdown()

    return end


def _check_shape(path: str, body: bytes) -> None:
    """Raises _Refused for JSON that would take far more memory than its bytes; brackets within texts count as well."""
    containers = body.count(b"[") + body.count(b"{")
    if containers > MOST_CONTAINERS or body.count(b'"') > MOST_QUOTES:
        raise _Refused(413, f"the body of {path} holds too many values")
    depth = 0
    for bracket in body.translate(None, _NO_BRACKETS) if containers > MOST_DEPTH else b"":
        depth += 1 if bracket in b"[{" else -1
        if depth > MOST_DEPTH:
            raise _Refused(400, f"the body of {path} is nested deeper than {MOST_DEPTH} lists and objects")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body at once, then whatever comes after it."""
    left = [body]

    async def replay() -> Message:
        return {"type": "http.request", "body": left.pop(), "more_body": False} if left else await receive()

    return replay


async def _answer(refused: _Refused, arriving: _Arriving, send: Send) -> None:
    """Refuse a request. What is left of its body is read after the answer was sent and before the connection closes."""
    body = json.dumps({"error": str(refused)}).encode("ascii")
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refused.headers}
    is_left = arriving.has_body and not arriving.is_over
    if is_left:
        headers["connection"] = "close"
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body, "more_body": is_left})
    if is_left:
        await arriving.throw_away()
        await send({"type": "http.response.body", "body": b""})


def _too_large(path: str, most: int) -> _Refused:
    return _Refused(413, f"the body of {path} is larger than {most // MEBIBYTE} MiB")


def _knows(login: tuple[str, str], header: bytes) -> bool:
    """Whether an Authorization header has the login (RFC 7617), in UTF-8 or, as Label Studio sends it, in Latin-1."""
    scheme, _, given = header.strip().partition(b" ")
    if scheme.lower() != b"basic":
        return False
    try:
        said = base64.b64decode(given.strip(), validate=True)
    except binascii.Error:
        return False
    expected = ":".join(login)
    is_latin = all(ord(character) < 256 for character in expected)
    spellings = (expected.encode(), expected.encode("latin-1" if is_latin else "utf-8"))
    return any(secrets.compare_digest(said, each) for each in spellings)


def is_this_machine(host: str) -> bool:
    """Whether only this machine reaches an address that a server listens on."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
