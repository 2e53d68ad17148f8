"""Which Label Studio a project belongs to, which token may be sent to it, and the header that the token becomes.

Each kind of token needs a header of its own, and a personal access token becomes a short-lived one.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from backend.caches import Bounds, SingleFlight
from backend.images.limits import TOKEN_SETTING, URL_SETTING
from backend.images.network import Network
from backend.values.errors import RemoteError, SetupError

log = logging.getLogger(__name__)
MOST_PROJECTS = 1000


@dataclass(frozen=True, slots=True)
class Site:
    """One Label Studio: where it is reached, what it calls itself (``alias``), and the token that it takes."""

    base: httpx.URL
    alias: httpx.URL | None = None
    token: str | None = field(default=None, repr=False)

    def owns(self, url: httpx.URL) -> bool:
        """Whether an address lies on this Label Studio, by its own name or by the one we use."""
        return same_origin(url, self.base) or (self.alias is not None and same_origin(url, self.alias))

    def own_path(self, path: str) -> str:
        """A path of this Label Studio without the prefix under which it is hosted, by its own name or by the one we use;
        several slashes are one, as servers in front of it take them.
        """
        plain, mark, query = path.partition("?")
        path = _one_slash(plain) + mark + query
        for url in (self.base, self.alias):
            prefix = url.path.rstrip("/") if url else ""
            if prefix and path.startswith(prefix + "/"):
                return path.removeprefix(prefix)
        return path

    def join(self, path: str) -> httpx.URL:
        """The address of a path with its query; a path prefix of the Label Studio is added where it is missing."""
        prefix = self.base.path.rstrip("/")
        path = "/" + path.lstrip("/")
        if prefix and not path.startswith(prefix + "/"):
            path = prefix + path
        return self.base.copy_with(raw_path=httpx.URL("http://x" + path).raw_path)


@dataclass(frozen=True, slots=True)
class _Announced:
    """What Label Studio said of itself for one project."""

    base: httpx.URL | None
    token: str | None = field(repr=False)


class Sites:
    """The Label Studio of every project.

    Our own address comes first. Otherwise it is the one that Label Studio announced for the project, where a loopback
    address never replaces a better one; a project that announced nothing uses the address that all others agree on.

    Our own token is sent to our own address, or to a loopback one, and nowhere else: anybody who can reach /setup can
    announce an address, and must not be handed the token there. For the same reason an announced token is sent only to
    the address that it was announced with, or to our own.
    """

    def __init__(self, own_url: str | None, own_token: str | None) -> None:
        self._own = read_base(own_url) if own_url else None
        if own_url and self._own is None:
            raise SetupError(f"{URL_SETTING}={own_url!r} is no http(s) address; set it to one like http://localhost:8080")
        self._own_token = read_token(own_token)
        if own_token and self._own_token is None:
            raise SetupError(f"{TOKEN_SETTING} is no token of Label Studio; copy it again from its account settings")
        self._announced: OrderedDict[str, _Announced] = OrderedDict()
        self._lock = threading.Lock()

    def register(self, project: str, hostname: str | None, token: str | None) -> None:
        """Remember what /setup said; the project that was heard of longest ago is forgotten first."""
        base = read_base(hostname) if hostname else None
        if hostname and base is None:
            log.warning("project %s: /setup announced %r, which is no http(s) address; ignored", project, hostname[:200])
        with self._lock:
            earlier = self._announced.pop(project, None)
            keeps = earlier and earlier.base and (base is None or (is_loopback(base) and not is_loopback(earlier.base)))
            self._announced[project] = earlier if earlier and keeps else _Announced(base, read_token(token))
            while len(self._announced) > MOST_PROJECTS:
                self._announced.popitem(last=False)

    def of(self, project: str) -> Site | None:
        """The Label Studio of a project; None when nothing is known."""
        with self._lock:
            announced = self._announced.get(project) or self._agreed()
        base = self._own or announced.base
        if base is None:
            return None
        return Site(base, announced.base, self._token_for(base, announced))

    def _token_for(self, base: httpx.URL, announced: _Announced) -> str | None:
        if self._own_token and (self._own is not None or is_loopback(base)):
            return self._own_token
        return announced.token

    def _agreed(self) -> _Announced:
        """What all projects agree on, for one that nobody announced: after a restart /predict comes before /setup."""
        distinct = set(self._announced.values())
        bases = {announced.base for announced in distinct}
        if len(bases) != 1:
            return _Announced(None, None)
        tokens = {announced.token for announced in distinct}
        return _Announced(bases.pop(), tokens.pop() if len(tokens) == 1 else None)


def read_base(address: str) -> httpx.URL | None:
    """An address as the base of others, without user, query and fragment; None when it is no http(s) address."""
    try:
        url = httpx.URL(address.strip())
    except (httpx.InvalidURL, UnicodeError):
        return None
    if url.scheme not in ("http", "https") or not url.host:
        return None
    base = url.copy_with(userinfo=b"", query=None, fragment=None)
    return base.copy_with(path=_one_slash(base.path)) if "//" in base.path else base


def _one_slash(path: str) -> str:
    return re.sub("/{2,}", "/", path)


def read_token(text: str | None) -> str | None:
    """A token that can stand in a header; None when there is none."""
    token = (text or "").strip()
    return token if token and token.isascii() and token.isprintable() and " " not in token else None


def same_origin(left: httpx.URL, right: httpx.URL) -> bool:
    """Whether two addresses have the same scheme, host and port; all names of this machine count as one host."""
    if (left.scheme, _port(left)) != (right.scheme, _port(right)):
        return False
    return left.host == right.host or (is_loopback(left) and is_loopback(right))


def is_loopback(url: httpx.URL) -> bool:
    """Whether an address means the machine itself."""
    if url.host == "localhost" or url.host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(url.host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _port(url: httpx.URL) -> int | None:
    return url.port or {"http": 80, "https": 443}.get(url.scheme)


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


TIMEOUT = httpx.Timeout(130.0, connect=10.0)  # Label Studio itself waits 100 s for a backend's predictions


def open_client(url: str, token: str | None = None, ca_file: Path | None = None) -> httpx.Client:
    """A client for one Label Studio; one on this machine is reached without the environment's proxy."""
    client = httpx.Client(base_url=url.rstrip("/"), timeout=TIMEOUT, transport=Network(ca_file=ca_file), trust_env=False)
    if token:
        client.auth = TokenAuth(Tokens(client), Site(client.base_url, token=token))
    return client
