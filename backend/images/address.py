"""What the address in a task's data means, and with which token it is asked for.

It is bytes in the address itself, a file on this machine, or something to fetch. Of Label Studio's tokens each kind needs a
header of its own, and a personal access token becomes a short-lived one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, unquote_to_bytes

import httpx

from backend.caches import Bounds, SingleFlight
from backend.images.limits import ROOTS_SETTING, TOKEN_SETTING, URL_SETTING
from backend.images.sites import Folders, Site, is_escape, is_loopback
from backend.values.errors import ImageError, RemoteError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*(?=:)")
_HALF_CHARACTER = re.compile(r"[\ud800-\udfff]")
_CLOUD = ("s3", "gs", "azure-blob")
_LOCAL_FILES = "/data/local-files"
_UPLOADS = "/data/upload/"


@dataclass(frozen=True, slots=True)
class Inline:
    """The file itself."""

    body: bytes = field(repr=False)

    @property
    def key(self) -> str:
        return _digest(self.body)


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file on this machine that may be read."""

    path: Path

    @property
    def key(self) -> str:
        return f"file:{self.path}"


@dataclass(frozen=True, slots=True)
class Remote:
    """Something to fetch; with a ``site``, from that Label Studio and with its token. A ``lasting`` one never changes."""

    url: httpx.URL
    site: Site | None = None
    lasting: bool = False

    @property
    def key(self) -> str:
        """A name for it that gives nothing away: addresses may be signed."""
        return _digest(str(self.url).encode())


Source = Inline | LocalFile | Remote


def locate(address: str, folders: Folders, site: Site | None, task_id: str | None) -> Source:
    """What an address means for a task of the Label Studio ``site``. Raises ImageError when it means nothing allowed."""
    address = address.strip() if isinstance(address, str) else ""
    if not address:
        raise ImageError("the task names no image; check the value of the image tag against the task's data")
    if _HALF_CHARACTER.search(address):
        raise ImageError("it is no valid address: it contains half a character")
    found = _SCHEME.match(address)
    scheme = found.group().lower() if found else ""
    if not scheme:
        return _locate_path(address, folders, site)
    if scheme == "data":
        return Inline(read_data_uri(address))
    if scheme == "file":
        return LocalFile(folders.find(_path_of_file_url(address)))
    if scheme in _CLOUD:
        return _locate_in_cloud(address, site, task_id)
    if scheme in ("http", "https"):
        return _locate_on_web(address, folders, site)
    raise ImageError(f"addresses of the kind {scheme}: are not read; use http(s), an upload, a local file or cloud storage")


def _locate_path(address: str, folders: Folders, site: Site | None) -> Source:
    """A path without a host: a file under an allowed folder, or a page of Label Studio."""
    if address.startswith("//"):
        return _locate_on_web(f"{site.base.scheme if site else 'https'}:{address}", folders, site)
    if not address.startswith((_LOCAL_FILES, _UPLOADS)) and folders.holds(Path(address)):
        return LocalFile(folders.find(address))
    return _locate_on_site(site.own_path(address) if site else address, folders, site)


def _locate_on_web(address: str, folders: Folders, site: Site | None) -> Source:
    """Another host's address, or one of Label Studio, which may have named itself by a loopback address of its own."""
    url = _parse(address)
    path = url.raw_path.decode("ascii")
    if site is None or not (site.owns(url) or (is_loopback(url) and path.startswith((_LOCAL_FILES, _UPLOADS)))):
        return Remote(url)
    return _locate_on_site(site.own_path(path), folders, site)


def _locate_on_site(path: str, folders: Folders, site: Site | None) -> Source:
    """A page of Label Studio; ``/data/local-files/?d=`` is read from the allowed folders where it lies there."""
    plain, _, query = path.partition("?")
    if is_escape(unquote(plain)):
        raise ImageError("the path climbs out of its folder with '..'; name the file without it")
    if plain.rstrip("/") != _LOCAL_FILES:
        return _on_site(path, site)
    name = dict(parse_qsl(query, keep_blank_values=True)).get("d", "")
    if not name:
        raise ImageError(f"{_LOCAL_FILES}/ needs the file's name as ?d=")
    if Path(name).is_absolute():
        return LocalFile(folders.find(name))
    try:
        found = folders.find_relative(name)
    except ImageError:
        if site is None or is_escape(name):
            raise
        found = None  # a link that leads out of the folder is not ours to follow, but may be Label Studio's
    return LocalFile(found) if found else _on_site(f"{_LOCAL_FILES}/?d={quote(name)}", site)


def _locate_in_cloud(address: str, site: Site | None, task_id: str | None) -> Source:
    """A bucket's object, through the address that Label Studio signs for the task."""
    if task_id is None:
        raise ImageError("an object of cloud storage is read through its task, and the request names no task")
    name = base64.urlsafe_b64encode(address.encode()).decode()
    return _on_site(f"/tasks/{quote(str(task_id), safe='')}/presign/?fileuri={quote(name)}", site)


def _on_site(path: str, site: Site | None) -> Remote:
    if site is None:
        raise ImageError(
            f"it lies on Label Studio, whose address is not known; set {URL_SETTING}, or {ROOTS_SETTING} if it is a file"
            " on this machine"
        )
    return Remote(site.join(path), site, lasting=path.startswith(_UPLOADS))


def _parse(address: str) -> httpx.URL:
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise ImageError(f"it is no valid address: {error}") from error
    if not url.host:
        raise ImageError("it is no valid address: it names no host")
    return url


def _path_of_file_url(address: str) -> str:
    rest = address[len("file:") :]
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host not in ("", "localhost"):
            raise ImageError(f"a file: address means this machine and must not name the host {host!r}")
        rest = slash + path
    return unquote(rest)


def read_data_uri(address: str) -> bytes:
    """The bytes of a ``data:`` address (RFC 2397). Raises ImageError when it cannot be read."""
    header, comma, payload = address.partition(",")
    if not comma:
        raise ImageError("the data: address has no comma between its type and its data")
    raw = unquote_to_bytes(payload)
    if not header.lower().endswith(";base64"):
        return raw
    text = b"".join(raw.split()).translate(bytes.maketrans(b"-_", b"+/"))
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ImageError(f"the data: address is no valid base64: {error}") from error


def shown(address: str) -> str:
    """An address as it may be shown: without inline data, passwords and signatures, and not too long."""
    address = "".join(letter if letter.isprintable() else "_" for letter in str(address))
    if address[:5].lower() == "data:":
        return f"{address[:40].partition(',')[0]},... ({len(address)} characters)"
    if _LOCAL_FILES not in address:
        path, mark, _ = address.partition("?")
        address = re.sub(r"//[^/@]*@", "//", path) + (mark and "?...")
    return address if len(address) <= 200 else f"{address[:120]}...{address[-60:]}"


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=20).hexdigest()


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
