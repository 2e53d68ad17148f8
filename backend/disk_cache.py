"""The disk cache: a folder of values by key, bounded in bytes, each file there as a whole or not at all."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

_PART = ".part"
_ABANDONED_S = 3600.0
"""A part as old as this was left by a process that died."""
_DIGEST = 16

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Codec(Generic[T]):
    """How values of one kind are written: what they are called in messages, the ending of their files, and both directions.

    ``decode`` raises ValueError, OSError or EOFError for bytes that it cannot read.
    """

    what: str
    suffix: str
    encode: Callable[[T], bytes]
    decode: Callable[[bytes], T]


class DiskCache(Generic[T]):
    """A folder of values of at most ``most_bytes``, the least recently used ones dropped first; 0 keeps none.

    Several processes may share a folder, and it can be deleted at any time. Nothing is read that was put in another
    ``space``. A file is named by a digest of its space and key and begins with a digest of both and of its content, so that a
    damaged or a renamed one is as good as none. Its access time says when it was last used, its modification time when it was
    written or last confirmed. A folder that cannot be used costs speed only: it is reported once.
    """

    def __init__(self, folder: Path, space: str, most_bytes: int, codec: Codec[T]) -> None:
        self._folder = folder
        self._space = space
        self._most_bytes = most_bytes
        self._codec = codec
        self._bytes: int | None = None
        self._lock = threading.Lock()
        self._is_reported = False

    def get(self, key: str) -> T | None:
        """The value that was put under a key; None when there is none, or none that can be read."""
        if not self._most_bytes:
            return None
        path = self.path(key)
        try:
            confirmed = path.stat().st_mtime
            content = path.read_bytes()
            body = content[_DIGEST:]
            if content[:_DIGEST] != self._digest(key, body):
                path.unlink(missing_ok=True)
                return None
            os.utime(path, (time.time(), confirmed))
            return self._codec.decode(body)
        except (FileNotFoundError, ValueError, EOFError):
            return None
        except OSError as error:
            self._report(error)
            return None

    def put(self, key: str, value: T) -> None:
        """Keep a value in place of an earlier one, unless it is larger than everything that there may be."""
        if not self._most_bytes:
            return
        body = self._codec.encode(value)
        if _DIGEST + len(body) > self._most_bytes:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.path(key), self._digest(key, body) + body)
            self._make_room(_DIGEST + len(body))
        except OSError as error:
            self._report(error)

    def __contains__(self, key: str) -> bool:
        """Whether there is a file for a key, whatever it holds."""
        return bool(self._most_bytes) and self.path(key).exists()

    def age_s(self, key: str) -> float:
        """Seconds since a value was put or confirmed; infinite when there is none."""
        try:
            return time.time() - self.path(key).stat().st_mtime
        except OSError:
            return math.inf

    def confirm(self, key: str) -> None:
        """A value is as good now as when it was put."""
        try:
            os.utime(self.path(key))
        except FileNotFoundError:
            return
        except OSError as error:
            self._report(error)

    def path(self, key: str) -> Path:
        """Where the file of a key lies, if there is one."""
        name = hashlib.blake2b(f"{self._space}\n{key}".encode(errors="surrogatepass"), digest_size=_DIGEST).hexdigest()
        return self._folder / f"{name}{self._codec.suffix}"

    def _digest(self, key: str, body: bytes) -> bytes:
        digest = hashlib.blake2b(f"{self._space}\n{key}\n".encode(errors="surrogatepass"), digest_size=_DIGEST)
        digest.update(body)
        return digest.digest()

    def _make_room(self, added: int) -> None:
        """Look through the folder only when what we know of makes it too large, and the first time."""
        with self._lock:
            if self._bytes is not None:
                self._bytes += added
            if self._bytes is None or self._bytes > self._most_bytes:
                self._bytes = _drop_least_used(self._folder, self._codec.suffix, self._most_bytes)

    def _report(self, error: OSError) -> None:
        if not self._is_reported:
            self._is_reported = True
            log.warning("%s cannot be kept in %s, which costs speed only: %s", self._codec.what, self._folder, error)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside its place and move it there, which readers and other writers may watch. Raises OSError, upon which
    an older file stays.
    """
    handle, name = tempfile.mkstemp(prefix=path.stem, suffix=_PART, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def drop_abandoned(folder: Path) -> None:
    """Remove what dead processes were writing into a folder; files that are being written are young and stay."""
    for path in folder.glob(f"*{_PART}"):
        try:
            is_old = time.time() - path.stat().st_mtime > _ABANDONED_S
        except FileNotFoundError:
            continue
        if is_old:
            path.unlink(missing_ok=True)


def _drop_least_used(folder: Path, suffix: str, most_bytes: int) -> int:
    """Drop files until they take no more than ``most_bytes``; the bytes that are left. Other files are not touched."""
    drop_abandoned(folder)
    files = []
    for path in folder.glob(f"*{suffix}"):
        try:
            state = path.stat()
        except FileNotFoundError:
            continue
        files.append((state.st_atime_ns, state.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= most_bytes:
            break
        path.unlink(missing_ok=True)
        total -= size
    return total
