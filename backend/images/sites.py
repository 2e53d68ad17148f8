"""Which Label Studio a project belongs to, and which token may be sent to it."""

from __future__ import annotations

import ipaddress
import logging
import stat
import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import httpx

from backend.images.limits import ROOTS_SETTING, TOKEN_SETTING, URL_SETTING, too_large
from backend.values.errors import ImageError, SetupError

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
        """A path of this Label Studio without the prefix under which it is hosted, by its own name or by the one we use."""
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
    return url.copy_with(userinfo=b"", query=None, fragment=None)


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


class Folders:
    """The allowed folders. Links are followed first and judged by where they end."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._written = tuple(Path(root).absolute() for root in roots)
        self._roots = tuple(root.resolve() for root in self._written)

    def holds(self, path: Path) -> bool:
        """Whether a path is written as one below an allowed folder; it need not exist."""
        return path.is_absolute() and any(path.is_relative_to(root) for root in self._written + self._roots)

    def find(self, name: str) -> Path:
        """The real path of a file that is named by its whole path. Raises ImageError unless it may be read."""
        _check_name(name)
        if not Path(name).is_absolute():
            raise ImageError(f"expected the whole path of a file, got {name!r}")
        with _readable():
            path = Path(name).resolve()
        if not any(path.is_relative_to(root) for root in self._roots):
            raise ImageError(f"the file does not lie under an allowed folder; set {ROOTS_SETTING} to a folder that holds it")
        return path

    def find_relative(self, name: str) -> Path | None:
        """The real path of a file that is named from an allowed folder, in either way to write its accents; None when no
        folder has it. Raises ImageError for a name that leads out of the folder.
        """
        _check_name(name)
        spellings = dict.fromkeys((name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)))
        for root in self._roots:
            for spelling in spellings:
                with _readable():
                    is_there = (root / spelling).exists()
                if is_there:
                    return self.find(str(root / spelling))
        return None


def read_file(path: Path, most_bytes: int) -> bytes:
    """The bytes of a file. Raises ImageError when it is missing, no plain file, too large or not readable."""
    with _readable():
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise ImageError("it is no plain file")
        if state.st_size > most_bytes:
            raise too_large(most_bytes)
        return path.read_bytes()


def is_escape(name: str) -> bool:
    """Whether a path climbs with ``..``, in either system's spelling."""
    return ".." in PurePosixPath(name.replace("\\", "/")).parts


@contextmanager
def _readable() -> Iterator[None]:
    """The system's refusals in our words."""
    try:
        yield
    except FileNotFoundError as error:
        raise ImageError("there is no such file") from error
    except OSError as error:
        raise ImageError(f"the file cannot be read: {error.strerror}") from error
    except RuntimeError as error:  # a loop of links, before Python 3.13
        raise ImageError("the file cannot be read: its links lead in a circle") from error


def _check_name(name: str) -> None:
    if is_escape(name):
        raise ImageError("the path climbs out of its folder with '..'; name the file without it")
    if "\0" in name:
        raise ImageError("the path contains a zero byte")
