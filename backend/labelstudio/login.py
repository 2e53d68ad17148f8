"""How we prove to Label Studio who we are, and how a request to it fails."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Generator
from typing import Any

import httpx

from backend.errors import RemoteError

TIMEOUT = httpx.Timeout(130.0, connect=10.0)  # Label Studio itself waits 100 s for a backend's predictions
LOOPBACK = ("127.0.0.1", "localhost", "::1")
ACCESS_TOKEN_LIFE_S = 240.0  # of the 300 s that Label Studio gives them
_JWT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+")


class LegacyToken(httpx.Auth):
    """The forty hexadecimal digits that a Label Studio accepts when its organization allows legacy tokens."""

    def __init__(self, token: str) -> None:
        self._header = f"Token {token}"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = self._header
        yield request


class PersonalAccessToken(httpx.Auth):
    """A personal access token: it opens nothing itself but is exchanged for access tokens that live for minutes."""

    requires_response_body = True

    def __init__(self, url: str, token: str) -> None:
        self._exchange = httpx.Request("POST", f"{url.rstrip('/')}/api/token/refresh/", json={"refresh": token})
        self._lock = threading.Lock()
        self._access = ""
        self._until = 0.0

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        access = self._current()
        if not access:
            access = self._keep((yield self._exchange))
        request.headers["Authorization"] = f"Bearer {access}"
        response = yield request
        if response.status_code == httpx.codes.UNAUTHORIZED:
            request.headers["Authorization"] = f"Bearer {self._keep((yield self._exchange))}"
            yield request

    def _current(self) -> str:
        with self._lock:
            return self._access if time.monotonic() < self._until else ""

    def _keep(self, response: httpx.Response) -> str:
        if response.is_error:
            raise RemoteError(
                f"Label Studio refused the personal access token: {_reason(response)}; make a new one in its account page"
            )
        with self._lock:
            self._access = str(response.json()["access"])
            self._until = time.monotonic() + ACCESS_TOKEN_LIFE_S
            return self._access


def token_auth(url: str, token: str) -> httpx.Auth:
    """The way to use a token, told by its form: a JWT is a personal access token, anything else a legacy token."""
    return PersonalAccessToken(url, token) if _JWT.fullmatch(token) else LegacyToken(token)


def create_personal_access_token(url: str, email: str, password: str) -> str:
    """Log in as a person and make the account's personal access token.

    Raises RemoteError when the login is refused, or when the account has a token already (Label Studio shows it only once).
    """
    with open_client(url) as session:
        session.follow_redirects = True
        send(session, "GET", "/user/login/")
        form = {"email": email, "password": password, "csrfmiddlewaretoken": session.cookies["csrftoken"]}
        page = send(session, "POST", "/user/login/", data=form, headers={"Referer": f"{session.base_url}user/login/"})
        if page.url.path.startswith("/user/login"):
            raise RemoteError(f"Label Studio at {url} refused the login of {email}; check the password")
        headers = {"X-CSRFToken": session.cookies["csrftoken"], "Referer": str(session.base_url)}
        return str(send(session, "POST", "/api/token/", headers=headers).json()["token"])


def open_client(url: str, auth: httpx.Auth | None = None) -> httpx.Client:
    """A client for one Label Studio; one on this machine is reached without the environment's proxy."""
    is_local = httpx.URL(url).host in LOOPBACK
    return httpx.Client(base_url=url.rstrip("/"), auth=auth, timeout=TIMEOUT, trust_env=not is_local)


def is_up(url: str) -> bool:
    """Whether a Label Studio or an ML backend on this machine answers its health check."""
    try:
        return httpx.get(f"{url.rstrip('/')}/health", timeout=2.0, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def send(client: httpx.Client, method: str, path: str, **options: Any) -> httpx.Response:
    """One request. Raises RemoteError that says which, and what Label Studio had against it."""
    try:
        response = client.request(method, path, **options)
    except httpx.TimeoutException as error:
        raise RemoteError(f"Label Studio did not answer {method} {client.base_url}{path.lstrip('/')} in time") from error
    except httpx.TransportError as error:
        raise RemoteError(f"Label Studio cannot be reached at {client.base_url}: {error}; is it running?") from error
    if response.is_error:
        told = f"Label Studio answered {response.status_code} to {method} {path}: {_reason(response)}{_advice(response)}"
        raise RemoteError(told, response.status_code, _asked_pause_s(response))
    return response


def _advice(response: httpx.Response) -> str:
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return "; check the token (--token or MASKLOOM_LABEL_STUDIO_TOKEN) against its account page"
    return ""


def _asked_pause_s(response: httpx.Response) -> float | None:
    value = response.headers.get("retry-after", "").strip()
    return float(value) if value.isdecimal() else None


def _reason(response: httpx.Response) -> str:
    """What Label Studio says went wrong, or the beginning of its page."""
    try:
        body = response.json()
    except ValueError:
        return response.text[:200].strip() or response.reason_phrase
    if not isinstance(body, dict):
        return str(body)[:500]
    return str(body.get("validation_errors") or body.get("detail") or body)[:500]
