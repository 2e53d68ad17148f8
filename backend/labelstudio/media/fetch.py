"""How a file is fetched over HTTP: streamed up to a limit, complete or not at all, with a token for one Label Studio only."""

from __future__ import annotations

import email.utils
import time
from dataclasses import dataclass, field

import httpx

from backend.errors import ImageError, MaskloomError, RemoteError
from backend.labelstudio.media import refusals
from backend.labelstudio.media.limits import too_large
from backend.labelstudio.media.options import MediaOptions
from backend.labelstudio.media.retries import Patience, TransientError
from backend.labelstudio.media.sites import Site, same_origin
from backend.labelstudio.media.sources import Remote
from backend.labelstudio.media.tokens import Tokens

MOST_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class Validators:
    """What a server gave along to ask later whether its file changed (RFC 9110, section 8.8)."""

    etag: str | None = None
    last_modified: str | None = None

    def __bool__(self) -> bool:
        return bool(self.headers())

    def headers(self) -> dict[str, str]:
        asked = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in asked.items() if value}


@dataclass(frozen=True, slots=True)
class Fetched:
    """A whole file."""

    body: bytes = field(repr=False)
    validators: Validators


class Fetcher:
    """Fetches over one shared client, from many threads."""

    def __init__(self, options: MediaOptions) -> None:
        self._options = options
        self._patience = Patience(options.total_timeout_s, options.first_wait_s)
        self._http = httpx.Client(
            timeout=httpx.Timeout(options.read_timeout_s, connect=options.connect_timeout_s),
            headers={"User-Agent": options.user_agent, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"},
            mounts={f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")},
        )
        self._tokens = Tokens(self._http, self._patience)

    def close(self) -> None:
        self._http.close()

    def fetch(self, remote: Remote, known: Validators) -> Fetched | None:
        """The file; None when it is the one that ``known`` describes. Raises ImageError or RemoteError."""
        return self._patience.persist(lambda deadline: self._with_token(remote, known, deadline))

    def _with_token(self, remote: Remote, known: Validators, deadline: float) -> Fetched | None:
        header = self._tokens.header(remote.site) if remote.site else None
        try:
            return self._follow(remote, header, known, deadline)
        except refusals.Unauthorized as refusal:
            fresh = self._tokens.renewed(remote.site, header) if remote.site and header else None
            if fresh is None:
                raise refusal.explained() from refusal
            try:
                return self._follow(remote, fresh, known, deadline)
            except refusals.Unauthorized as again:
                raise again.explained() from again

    def _follow(self, remote: Remote, header: str | None, known: Validators, deadline: float) -> Fetched | None:
        url = remote.url
        for _ in range(MOST_REDIRECTS + 1):
            site = remote.site if remote.site and _is_on(remote.site, url) else None
            try:
                reply = self._ask(url, site, header, known, deadline)
            except httpx.TimeoutException as error:
                raise TransientError(f"{refusals.who(site, url)} did not answer in time") from error
            except httpx.TransportError as error:
                raise TransientError(f"{refusals.who(site, url)} cannot be read: {error}") from error
            if not isinstance(reply, httpx.URL):
                return reply
            url = reply
        raise ImageError(f"it redirects more than {MOST_REDIRECTS} times")

    def _ask(
        self, url: httpx.URL, site: Site | None, header: str | None, known: Validators, deadline: float
    ) -> Fetched | httpx.URL | None:
        """One exchange: the file, where it went, or None when it did not change."""
        asked = known.headers()
        headers = dict(asked)
        if site and header:
            headers["Authorization"] = header
        with self._http.stream("GET", url, headers=headers, timeout=self._timeout(deadline)) as response:
            if response.status_code in _REDIRECTS and "location" in response.headers:
                return _redirected(response, site)
            if response.status_code == 304 and asked:
                return None
            if response.status_code in _TRANSIENT:
                raise TransientError(f"{refusals.who(site, url)} answered {response.status_code}", _asked_pause_s(response))
            if response.status_code != 200:
                raise _refusal(response, site)
            return Fetched(self._read(response, deadline), _validators(response))

    def _timeout(self, deadline: float) -> httpx.Timeout:
        left = max(deadline - time.monotonic(), 0.01)
        return httpx.Timeout(min(self._options.read_timeout_s, left), connect=min(self._options.connect_timeout_s, left))

    def _read(self, response: httpx.Response, deadline: float) -> bytes:
        """The body; httpx itself raises RemoteProtocolError when it ends before its Content-Length."""
        most = self._options.max_bytes
        announced = response.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > most:
            raise too_large(most)
        body = bytearray()
        for piece in response.iter_bytes(_PIECE):
            body += piece
            if len(body) > most:
                raise too_large(most)
            if time.monotonic() > deadline:
                raise RemoteError(f"it did not arrive within {self._options.total_timeout_s:g} s")
        return bytes(body)


def _is_on(site: Site, url: httpx.URL) -> bool:
    """Whether the token may go to an address: only to the Label Studio's own origin, or its secured twin."""
    twin = site.base.copy_with(scheme="https") if site.base.scheme == "http" and site.base.port is None else site.base
    return same_origin(url, site.base) or same_origin(url, twin)


def _redirected(response: httpx.Response, site: Site | None) -> httpx.URL:
    try:
        target = response.url.join(response.headers["location"])
    except httpx.InvalidURL as error:
        raise ImageError(f"it redirects to no valid address: {error}") from error
    if target.scheme not in ("http", "https"):
        raise ImageError(f"it redirects to an address of the kind {target.scheme}:, which is not read")
    if site and target.path.rstrip("/").endswith("/user/login"):
        raise refusals.Unauthorized(site, "it asks for a login")
    return target


def _refusal(response: httpx.Response, site: Site | None) -> MaskloomError | refusals.Unauthorized:
    status = response.status_code
    if site and status in (401, 403):
        return refusals.Unauthorized(site, f"it answered {status}")
    if site is None and status in (401, 403):
        return ImageError(f"{response.url.host} refuses it ({status}); Maskloom sends no credentials to other hosts")
    if status in (404, 410):
        return ImageError(f"{refusals.who(site, response.url)} has no such file ({status})")
    if status >= 500:
        return RemoteError(f"{refusals.who(site, response.url)} answered {status}")
    return ImageError(f"{refusals.who(site, response.url)} answered {status}")


def _validators(response: httpx.Response) -> Validators:
    return Validators(response.headers.get("etag"), response.headers.get("last-modified"))


def _asked_pause_s(response: httpx.Response) -> float | None:
    """The seconds of a Retry-After header, which may also be a date (RFC 9110, section 10.2.3)."""
    value = response.headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
