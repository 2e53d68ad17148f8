"""What Label Studio's tokens are: which header each kind needs, and how a personal access token becomes a short-lived one."""

from __future__ import annotations

import base64
import binascii
import json
import threading
import time
from dataclasses import dataclass
from typing import Any

import httpx

from backend.errors import RemoteError
from backend.labelstudio.media.options import TOKEN_SETTING
from backend.labelstudio.media.retries import Patience, TransientError
from backend.labelstudio.media.sites import Site

REFRESH_PATH = "/api/token/refresh/"
DEFAULT_LIFETIME_S = 300.0
"""How long Label Studio's access tokens live."""


@dataclass(frozen=True, slots=True)
class _Access:
    header: str
    good_until: float


class Tokens:
    """The Authorization header for every Label Studio.

    A legacy token goes as ``Token``, an access token as ``Bearer``. A personal access token is a JWT refresh token: it is
    exchanged for an access token, which is kept until shortly before its end.
    """

    def __init__(self, http: httpx.Client, patience: Patience) -> None:
        self._http = http
        self._patience = patience
        self._kept: dict[tuple[httpx.URL, str], _Access] = {}
        self._lock = threading.Lock()

    def header(self, site: Site) -> str | None:
        """The header's value; None without a token. Raises RemoteError when the token is not accepted."""
        if not site.token:
            return None
        if not is_refresh_token(site.token):
            return f"Bearer {site.token}" if read_claims(site.token) else f"Token {site.token}"
        return self._access(site, site.token, refused=None)

    def renewed(self, site: Site, refused: str) -> str | None:
        """A header in place of one that was refused; None when there can be no other."""
        if not site.token or not is_refresh_token(site.token):
            return None
        return self._access(site, site.token, refused)

    def _access(self, site: Site, token: str, refused: str | None) -> str:
        key = (site.base, token)
        with self._lock:
            kept = self._kept.get(key)
            if kept is None or kept.header == refused or time.monotonic() >= kept.good_until:
                kept = self._kept[key] = self._patience.persist(lambda deadline: self._exchange(site, token))
            return kept.header

    def _exchange(self, site: Site, token: str) -> _Access:
        asked = time.monotonic()
        try:
            reply = self._http.post(site.join(REFRESH_PATH), json={"refresh": token})
        except httpx.TransportError as error:
            raise TransientError(f"Label Studio at {site.base} does not answer ({type(error).__name__})") from error
        if reply.status_code == 429 or reply.status_code >= 500:
            raise TransientError(f"Label Studio at {site.base} answered {reply.status_code} to the exchange of its token")
        access = _read_access(reply)
        if access is None:
            raise RemoteError(
                f"Label Studio at {site.base} does not exchange the personal access token (status {reply.status_code}); "
                f"make a new one in its account settings and set {TOKEN_SETTING} to it"
            )
        return _Access(f"Bearer {access}", asked + _usable_s(access))


def is_refresh_token(token: str) -> bool:
    """Whether a token is a personal access token, which must be exchanged before use."""
    return read_claims(token).get("token_type") == "refresh"


def read_claims(token: str) -> dict[str, Any]:
    """The claims of a JWT (RFC 7519), unverified; nothing for any other token."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        header, claims = (json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in parts[:2])
    except (binascii.Error, ValueError):
        return {}
    return claims if isinstance(header, dict) and "alg" in header and isinstance(claims, dict) else {}


def _read_access(reply: httpx.Response) -> str | None:
    if reply.status_code != 200:
        return None
    try:
        access = reply.json()["access"]
    except (ValueError, KeyError, TypeError):
        return None
    return access if isinstance(access, str) and access.isascii() and access.isprintable() else None


def _usable_s(access: str) -> float:
    """How long to use an access token: its life less a tenth, at most 30 s, so that it never ends on the way."""
    claims = read_claims(access)
    try:
        lifetime = float(claims["exp"]) - float(claims["iat"])
    except (KeyError, TypeError, ValueError):
        lifetime = DEFAULT_LIFETIME_S
    return lifetime - min(30.0, lifetime / 10)
