"""Fetches the bytes of an image by HTTP: retries what may pass, refuses what never will, says why."""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import TypeVar

import httpx

from backend.images.address import Remote, read_data_uri
from backend.images.limits import ROOTS_SETTING, TOKEN_SETTING, URL_SETTING, MediaOptions, too_large
from backend.images.network import CA_SETTING, HostLimits, HostPolicy, Network
from backend.images.sites import Site, Tokens, is_loopback, is_refresh_token, read_base, read_claims, same_origin
from backend.values.errors import ImageError, MaskloomError, RemoteError


class Unauthorized(Exception):
    """Label Studio does not take the token, or there is none; another token may help."""

    def __init__(self, site: Site, happened: str, status: int) -> None:
        super().__init__(happened)
        self.site = site
        self.status = status

    def explained(self) -> RemoteError:
        """The same for people, with what to do."""
        return RemoteError(f"Label Studio at {self.site.base} refuses it ({self}): {_advice(self.site)}", self.status)


def refusal(status: int, site: Site | None, url: httpx.URL) -> MaskloomError | Unauthorized:
    """What an answer with this status means; ``site`` where it came from Label Studio."""
    if status in (401, 403):
        if site:
            return Unauthorized(site, f"it answered {status}", status)
        return ImageError(f"{who(site, url)} refuses it ({status}); Maskloom sends no credentials to other hosts")
    if status in (404, 410):
        hint = f"; a file on this machine is read only under {ROOTS_SETTING}" if site else ""
        return ImageError(f"{who(site, url)} has no such file ({status}){hint}")
    if status >= 500:
        return RemoteError(failure(status, site, url), status)
    return ImageError(f"{who(site, url)} answered {status}")


def failure(status: int, site: Site | None, url: httpx.URL) -> str:
    """What a server says that cannot answer now; Label Studio 1.23 answers 500 for an upload that it does not know."""
    hint = ", as it also does for an upload that was deleted" if site and status == 500 and "/data/upload/" in url.path else ""
    return f"{who(site, url)} answered {status}{hint}"


def who(site: Site | None, url: httpx.URL) -> str:
    """The server as a message names it, with a hint where its address may be the cause."""
    if site is None:
        return url.host
    if is_loopback(site.base):
        return f"Label Studio at {site.base} (if it runs on another machine, set {URL_SETTING})"
    return f"Label Studio at {site.base}"


def _advice(site: Site) -> str:
    set_both = f"set {URL_SETTING} to its address and {TOKEN_SETTING} to a personal access token from its account settings"
    if not site.token:
        return f"no token is known for it; {set_both}"
    if is_refresh_token(site.token):
        return f"the user of the personal access token may not read it; {set_both} of a member of the project"
    if read_claims(site.token):
        return f"the token is an access token, which ends after 5 minutes; {set_both}"
    return f"the legacy token is wrong, or legacy tokens are disabled there; {set_both}"


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """At most ``attempts`` within ``total_s``; the pauses begin with ``first_wait_s`` and double, give or take a half, so
    that many who failed together do not come back together. A pause that the server asks for takes their place.
    """

    total_s: float
    first_wait_s: float
    attempts: int = 4

    def persist(self, attempt: Callable[[float], T]) -> T:
        """The result of ``attempt(deadline)``, a time of ``time.monotonic``. Raises RemoteError when patience is over, or
        when trying again is of no use.
        """
        deadline = time.monotonic() + self.total_s
        tried = 0
        while True:
            try:
                return attempt(deadline)
            except RemoteError as error:
                tried += 1
                wait = self._wait(tried) if error.after_s is None else error.after_s
                if not error.is_passing or tried >= self.attempts or time.monotonic() + wait >= deadline:
                    times = f" (tried {tried} times)" if tried > 1 else ""
                    raise RemoteError(f"{error}{times}", error.status, error.after_s) from error
                time.sleep(wait)

    def _wait(self, tried: int) -> float:
        return self.first_wait_s * 2.0 ** (tried - 1) * random.uniform(0.5, 1.5)


MOST_REDIRECTS = 5
QUICK = 100_000
"""Bytes a second: an image that comes as quickly may be late, by at most MOST_LATE_S."""
MOST_LATE_S = 60.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_INLINE = "x-maskloom-inline"
"""Under this name a redirect's ``data:`` address is set aside."""
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Validators:
    """What a server gave along to ask later whether its file changed (RFC 9110, section 8.8)."""

    etag: str | None = None
    last_modified: str | None = None

    def __bool__(self) -> bool:
        return bool(self.etag or self.last_modified)

    def headers(self) -> dict[str, str]:
        asked = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in asked.items() if value}


@dataclass(frozen=True, slots=True)
class Fetched:
    """A whole file."""

    body: bytes = field(repr=False)
    validators: Validators


@dataclass(frozen=True, slots=True)
class _Try:
    """One attempt at a file: what is known of it, the token's header, when patience ends (``time.monotonic``), and the file to
    write it to, or None to keep it in memory.
    """

    remote: Remote
    known: Validators
    authorization: str | None = field(repr=False)
    deadline: float
    target: Path | None = None

    def site_at(self, url: httpx.URL) -> Site | None:
        """The Label Studio to which the token may go at this address: the same origin, or its secured twin."""
        site = self.remote.site
        if site is None:
            return None
        twin = site.base.copy_with(scheme="https") if site.base.port is None else site.base
        return site if same_origin(url, site.base) or same_origin(url, twin) else None

    def headers(self, url: httpx.URL) -> dict[str, str]:
        headers = self.known.headers()
        if self.authorization and self.site_at(url):
            headers["Authorization"] = self.authorization
        return headers


class Fetcher:
    """Fetches over one shared client, from many threads. Cookies are never kept."""

    def __init__(self, options: MediaOptions) -> None:
        self._options = options
        self._patience = Patience(options.total_timeout_s, options.first_wait_s)
        own = read_base(options.label_studio_url) if options.label_studio_url else None
        self._hosts = HostLimits()
        self._http = httpx.Client(
            transport=Network(HostPolicy(options.hosts, (own,) if own else ()), options.ca_file),
            trust_env=False,
            timeout=httpx.Timeout(options.read_timeout_s, connect=options.connect_timeout_s),
            headers={"User-Agent": options.user_agent, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"},
            event_hooks={"response": [_set_inline_aside]},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        )
        self._tokens = Tokens(self._http)

    def close(self) -> None:
        self._http.close()

    def fetch(self, remote: Remote, known: Validators) -> Fetched | None:
        """The file; None when it is the one that ``known`` describes. Raises ImageError or RemoteError."""
        with self._hosts.at(remote.url.host):
            return self._patience.persist(lambda deadline: self._fetch_once(_Try(remote, known, None, deadline)))

    def download(self, remote: Remote, target: Path) -> None:
        """The file into ``target``, piece by piece, however large it is within the limit. Raises as ``fetch`` does, and OSError
        when it cannot be written.
        """
        with self._hosts.at(remote.url.host):
            self._patience.persist(lambda deadline: self._fetch_once(_Try(remote, Validators(), None, deadline, target)))

    def _fetch_once(self, attempt: _Try) -> Fetched | None:
        """With a new access token when the first is refused: it may have been revoked before its end."""
        site = attempt.remote.site
        header = self._tokens.header(site) if site else None
        try:
            try:
                return self._follow(replace(attempt, authorization=header))
            except Unauthorized as refused:
                fresh = self._tokens.header(refused.site, refused=header)
                if fresh is None:
                    raise
                return self._follow(replace(attempt, authorization=fresh))
        except Unauthorized as refused:
            raise refused.explained() from refused

    def _follow(self, attempt: _Try) -> Fetched | None:
        """Through all redirects; the token never comes back once another host had the word."""
        url = attempt.remote.url
        for _ in range(MOST_REDIRECTS + 1):
            if attempt.site_at(url) is None:
                attempt = replace(attempt, authorization=None)
            try:
                reply = self._ask(url, attempt)
            except httpx.TimeoutException as error:
                raise RemoteError(f"{who(attempt.site_at(url), url)} did not answer in time") from error
            except httpx.InvalidURL as error:  # httpx reads the target of a redirect by itself
                raise ImageError(f"it redirects to an address which is not read: {error}") from error
            except httpx.RequestError as error:
                if "CERTIFICATE_VERIFY_FAILED" in str(error):
                    raise ImageError(
                        f"the certificate of {who(attempt.site_at(url), url)} is not trusted here; name the file of the "
                        f"authority that signed it as {CA_SETTING}"
                    ) from error
                raise RemoteError(f"{who(attempt.site_at(url), url)} cannot be read: {error}") from error
            if not isinstance(reply, httpx.URL):
                return reply
            url = reply
        raise ImageError(f"it redirects more than {MOST_REDIRECTS} times")

    def _ask(self, url: httpx.URL, attempt: _Try) -> Fetched | httpx.URL | None:
        """One exchange: the file, where it went, or None when it did not change."""
        timeout = self._timeout(attempt.deadline)
        with self._http.stream("GET", url, headers=attempt.headers(url), timeout=timeout) as response:
            status, site = response.status_code, attempt.site_at(url)
            if status == 200:
                return Fetched(self._read(response, attempt), _validators(response))
            if status in _REDIRECTS and _INLINE in response.headers:
                return Fetched(read_data_uri(response.headers[_INLINE]), Validators())
            if status in _REDIRECTS and "location" in response.headers:
                return _redirected(response, site)
            if status == 304 and attempt.known:
                return None
            if status in _BUSY:
                raise RemoteError(failure(status, site, url), status, _asked_pause_s(response))
            raise refusal(status, site, url)

    def _timeout(self, deadline: float) -> httpx.Timeout:
        left = max(deadline - time.monotonic(), 0.01)
        return httpx.Timeout(min(self._options.read_timeout_s, left), connect=min(self._options.connect_timeout_s, left))

    def _read(self, response: httpx.Response, attempt: _Try) -> bytes:
        """The body, or nothing where it goes into a file."""
        pieces = self._pieces(response, attempt.deadline)
        if attempt.target is None:
            return b"".join(pieces)
        with attempt.target.open("wb") as file:
            file.writelines(pieces)
        return b""

    def _pieces(self, response: httpx.Response, deadline: float) -> Iterator[bytes]:
        """The body as it comes, so that a dripping server is noticed; httpx itself raises RemoteProtocolError when it ends
        before its Content-Length.
        """
        most, setting = self._options.max_bytes, self._options.bytes_setting
        announced = response.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > most:
            raise too_large(most, setting)
        count, began = 0, time.monotonic()
        for piece in response.iter_bytes():
            yield piece
            count += len(piece)
            if count > most:
                raise too_large(most, setting)
            late_s = time.monotonic() - deadline
            if late_s > 0 and (late_s > MOST_LATE_S or count < QUICK * (time.monotonic() - began)):
                raise RemoteError(f"it did not arrive within {self._options.total_timeout_s:g} s")


def _set_inline_aside(response: httpx.Response) -> None:
    """A redirect to a ``data:`` address, which browsers show and which httpx would take for one of a host."""
    target = response.headers.get("location", "").strip()
    if target[:5].lower() == "data:":
        del response.headers["location"]
        response.headers[_INLINE] = target


def _redirected(response: httpx.Response, site: Site | None) -> httpx.URL:
    target = response.url.join(response.headers["location"])
    if target.scheme not in ("http", "https") or not target.host:
        raise ImageError(f"it redirects to an address of the kind {target.scheme}:, which is not read")
    if site and target.path.rstrip("/").endswith("/user/login"):
        raise Unauthorized(site, "it asks for a login", 401)
    return target


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
