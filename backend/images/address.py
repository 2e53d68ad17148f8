"""What the address in a task's data means: bytes in the address itself, a file in an allowed folder, or something to fetch."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import stat
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qsl, quote, unquote, unquote_to_bytes

import httpx

from backend.images.limits import ROOTS_SETTING, URL_SETTING, too_large
from backend.images.sites import Site, is_loopback
from backend.values.errors import ImageError


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
            path = _spelled(Path(name)).resolve()
        if not any(path.is_relative_to(root) for root in self._roots):
            raise ImageError(f"the file does not lie under an allowed folder; set {ROOTS_SETTING} to a folder that holds it")
        return path

    def find_relative(self, name: str) -> Path | None:
        """The real path of a file that is named from an allowed folder; None when no folder has it. Raises ImageError for a
        name that leads out of the folder.
        """
        _check_name(name)
        for root in self._roots:
            with _readable():
                path = _spelled(root / name)
                is_there = path.exists()
            if is_there:
                return self.find(str(path))
        return None


SETTLED_S = 2.5
"""So long after a change a file may change once more at the same time: clocks of file systems tick every few milliseconds, that
of FAT every two seconds.
"""


def state_of(path: Path) -> str | None:
    """A file's place, number, size and times, which change with what is in it; None while the last change is so fresh that the
    next one need not show. Raises ImageError when it is missing.
    """
    with _readable():
        state = path.stat()
    is_settled = time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns) > SETTLED_S * 1e9
    return f"{path}:{state.st_ino}:{state.st_size}:{state.st_mtime_ns}:{state.st_ctime_ns}" if is_settled else None


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


def _spelled(path: Path) -> Path:
    """A path as it is there: letters with accents are written in two ways (NFC, NFD), folders are also parted by ``\\``, and
    addresses write other characters as ``%20``. One that is not there stays.
    """
    for written in dict.fromkeys((str(path), str(path).replace("\\", "/"), unquote(str(path)))):
        if is_escape(written):
            break
        found = Path("/")
        for part in Path(written).parts[1:]:
            ways = (found / way for way in (part, *(unicodedata.normalize(form, part) for form in ("NFC", "NFD"))))
            found = next(filter(os.path.exists, ways), found / part)
        if os.path.exists(found):
            return found
    return path


def locate(address: str, folders: Folders, find_site: Callable[[], Site | None], task_id: str | None) -> Source:
    """What an address means for a task, whose Label Studio ``find_site`` tells where one is needed.

    Raises ImageError when it means nothing allowed.
    """
    address = address.strip() if isinstance(address, str) else ""
    if not address:
        raise ImageError("the task names no image; check the value of the image tag against the task's data")
    if _HALF_CHARACTER.search(address):
        raise ImageError("it is no valid address: it contains half a character")
    found = _SCHEME.match(address)
    scheme = found.group().lower() if found else ""
    if scheme in ("", "http", "https"):
        address = _with_slashes(address, folders)
    if not scheme and _is_allowed_file(address, folders):
        return LocalFile(folders.find(address))
    if scheme == "data":
        return Inline(read_data_uri(address))
    if scheme == "file":
        return LocalFile(folders.find(_path_of_file_url(address)))
    site = find_site()
    if not scheme:
        return _locate_path(address, folders, site)
    if scheme in _CLOUD:
        return _locate_in_cloud(address, site, task_id)
    if scheme in ("http", "https"):
        return _locate_on_web(address, folders, site)
    raise ImageError(f"addresses of the kind {scheme}: are not read; use http(s), an upload, a local file or cloud storage")


def _is_allowed_file(address: str, folders: Folders) -> bool:
    """Whether a path without a host is one of a file under an allowed folder."""
    return not address.startswith(("//", _LOCAL_FILES, _UPLOADS)) and folders.holds(Path(address))


def _with_slashes(address: str, folders: Folders) -> str:
    """An address as browsers read it (WHATWG URL, 4.4): a backslash before the query is a slash, unless a file is named so."""
    plain, mark, rest = address.partition("?")
    if "\\" not in plain or (folders.holds(Path(plain)) and os.path.exists(plain)):
        return address
    return plain.replace("\\", "/") + mark + rest


def _locate_path(address: str, folders: Folders, site: Site | None) -> Source:
    """A path without a host that is no file under an allowed folder: a page of Label Studio."""
    if address.startswith("//"):
        return _locate_on_web(f"{site.base.scheme if site else 'https'}:{address}", folders, site)
    return _locate_on_site(site.own_path(address) if site else address, folders, site)


def _locate_on_web(address: str, folders: Folders, site: Site | None) -> Source:
    """Another host's address, or one of Label Studio, which may have named itself by a loopback address of its own."""
    url = _parse(address)
    path = "/" + url.raw_path.decode("ascii").lstrip("/")
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
    try:
        found = folders.find(name) if Path(name).is_absolute() else folders.find_relative(name)
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
    with _valid():
        return Remote(site.join(path), site, lasting=path.startswith(_UPLOADS))


@contextmanager
def _valid() -> Iterator[None]:
    """What httpx says of an address, in our words."""
    try:
        yield
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ImageError(f"it is no valid address: {error}") from error


def _parse(address: str) -> httpx.URL:
    with _valid():
        url = httpx.URL(address)
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
