"""How we prove to Label Studio who we are, and how a request to it fails."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import httpx

from backend.images.sites import Site
from backend.images.tokens import Tokens
from backend.values.errors import RemoteError

TIMEOUT = httpx.Timeout(130.0, connect=10.0)  # Label Studio itself waits 100 s for a backend's predictions
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class TokenAuth(httpx.Auth):
    """A token of whatever kind on every request to one Label Studio; an access token that was refused is replaced once."""

    def __init__(self, tokens: Tokens, site: Site) -> None:
        self._tokens = tokens
        self._site = site

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        header = self._tokens.header(self._site)
        request.headers["Authorization"] = header or ""
        response = yield request
        if response.status_code == httpx.codes.UNAUTHORIZED and (other := self._tokens.header(self._site, refused=header)):
            request.headers["Authorization"] = other
            yield request


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


def open_client(url: str, token: str | None = None) -> httpx.Client:
    """A client for one Label Studio; one on this machine is reached without the environment's proxy."""
    is_local = httpx.URL(url).host in LOOPBACK
    client = httpx.Client(base_url=url.rstrip("/"), timeout=TIMEOUT, trust_env=not is_local)
    if token:
        client.auth = TokenAuth(Tokens(client), Site(client.base_url, token=token))
    return client


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
