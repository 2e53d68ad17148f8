"""What Label Studio's tokens are: which header each kind needs, and how a personal access token becomes a short-lived one."""

from __future__ import annotations

import base64
import binascii
import json
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import httpx

from backend.caches import Bounds, SingleFlight
from backend.images.limits import TOKEN_SETTING, URL_SETTING
from backend.images.sites import Site
from backend.values.errors import RemoteError

REFRESH_PATH = "/api/token/refresh/"
DEFAULT_LIFETIME_S = 300.0
"""How long Label Studio's access tokens live."""
MOST_KEPT = 100


@dataclass(frozen=True, slots=True)
class _Access:
    header: str
    good_until: float


class Tokens:
    """The Authorization header for every Label Studio.

    A legacy token goes as ``Token``, an access token as ``Bearer``. A personal access token is a JWT refresh token: it is
    exchanged for an access token, which is kept until shortly before its end. Threads that need one share the exchange.
    """

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._kept: OrderedDict[str, _Access] = OrderedDict()
        self._lock = threading.Lock()
        self._exchanges: SingleFlight[str] = SingleFlight(Bounds(0, len))

    def header(self, site: Site, refused: str | None = None) -> str | None:
        """The header's value, another one than the ``refused``; None when there is none.

        Raises RemoteError when Label Studio does not exchange the token.
        """
        if not site.token:
            return None
        if is_refresh_token(site.token):
            key = f"{site.base} {site.token}"
            return self._known(key, refused) or self._exchanges.do(key, lambda: self._renewed(key, site, refused))
        plain = f"Bearer {site.token}" if read_claims(site.token) else f"Token {site.token}"
        return plain if plain != refused else None

    def _known(self, key: str, refused: str | None) -> str | None:
        with self._lock:
            kept = self._kept.get(key)
        return kept.header if kept and kept.header != refused and time.monotonic() < kept.good_until else None

    def _renewed(self, key: str, site: Site, refused: str | None) -> str:
        """A fresh header; looks once more first, because another thread may just have come back with one."""
        known = self._known(key, refused)
        if known:
            return known
        asked = time.monotonic()
        access = self._exchange(site)
        with self._lock:
            self._kept[key] = _Access(f"Bearer {access}", asked + usable_s(access))
            self._kept.move_to_end(key)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return f"Bearer {access}"

    def _exchange(self, site: Site) -> str:
        """An access token, asked for without the client's own auth. Redirects could carry the personal token elsewhere."""
        try:
            reply = self._http.post(site.join(REFRESH_PATH), json={"refresh": site.token}, auth=httpx.Auth())
        except httpx.RequestError as error:
            raise RemoteError(f"Label Studio at {site.base} does not exchange tokens: {error}") from error
        access = _read_access(reply)
        if access is None:
            raise RemoteError(_refused_exchange(reply, site), reply.status_code)
        return access


def _refused_exchange(reply: httpx.Response, site: Site) -> str:
    status = reply.status_code
    if reply.has_redirect_location:
        return f"Label Studio at {site.base} redirects elsewhere; set {URL_SETTING} to its final address"
    if status == 429 or status >= 500:
        return f"Label Studio at {site.base} answered {status} to the exchange of a token"
    return (
        f"Label Studio at {site.base} does not exchange the personal access token (it answered {status}); "
        f"make a new one in its account settings and set {TOKEN_SETTING} to it"
    )


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


def usable_s(access: str) -> float:
    """How long to use an access token: its life less a tenth, at most 30 s, so that it never ends on the way."""
    claims = read_claims(access)
    try:
        lifetime = float(claims["exp"]) - float(claims["iat"])
    except (KeyError, TypeError, ValueError):
        lifetime = DEFAULT_LIFETIME_S
    return lifetime - min(30.0, lifetime / 10)
