"""Caches: single flight, by which callers at once share one computation and its result in memory, and the disk cache.

A disk cache is a folder of values by key, bounded in bytes, each file there as a whole or not at all.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bounds(Generic[T]):
    """What is kept: results for which ``is_kept``, at most ``most_bytes`` of them as ``size_of`` counts, for ``lifetime_s``.

    Those least recently used leave first; ``left`` is told of each that leaves for want of room, one that is larger than
    everything that there may be at once.
    """

    most_bytes: int
    size_of: Callable[[T], int]
    lifetime_s: float = math.inf
    is_kept: Callable[[T], bool] = lambda result: True
    left: Callable[[str, T], None] = lambda key, result: None


@dataclass(frozen=True, slots=True)
class _Kept(Generic[T]):
    result: T
    nbytes: int
    since: float = field(default_factory=time.monotonic)


class SingleFlight(Generic[T]):
    """Results by key, for many threads: whoever asks for one that is under way waits for it. Everybody gets the same object."""

    def __init__(self, bounds: Bounds[T]) -> None:
        self.nbytes = 0
        self._bounds = bounds
        self._lock = threading.Lock()
        self._under_way: dict[str, Future[T]] = {}
        self._kept: OrderedDict[str, _Kept[T]] = OrderedDict()

    def do(self, key: str, work: Callable[[], T]) -> T:
        """The result for a key; ``work`` runs only if nobody has it or is at it. Its error reaches everybody who waits."""
        return self.do_all([key], lambda missing: {key: work()})[0]

    def do_all(self, keys: Sequence[str], work: Callable[[Sequence[str]], Mapping[str, T | Exception]]) -> list[T]:
        """The results for several keys, in order; ``work`` gets those that nobody has or is at, and gives a result or an error
        for each. Raises the first error among them; the others are kept all the same.
        """
        results: list[T] = []
        for each in self.do_each(keys, work):
            if isinstance(each, Exception):
                raise each
            results.append(each)
        return results

    def do_each(self, keys: Sequence[str], work: Callable[[Sequence[str]], Mapping[str, T | Exception]]) -> list[T | Exception]:
        """The same with its error in place of each result that there is not."""
        found, mine, waiting = self._claim(keys)
        results: dict[str, T | Exception] = {**found}
        if mine:
            self._settle(mine, work)
        for key, future in (*mine.items(), *waiting.items()):
            try:
                results[key] = future.result()
            except Exception as error:
                results[key] = error
        return [results[key] for key in keys]

    def _claim(self, keys: Sequence[str]) -> tuple[dict[str, T], dict[str, Future[T]], dict[str, Future[T]]]:
        """What is kept, what the caller must make, and what others are making."""
        found: dict[str, T] = {}
        mine: dict[str, Future[T]] = {}
        waiting: dict[str, Future[T]] = {}
        with self._lock:
            for key in dict.fromkeys(keys):
                kept = self._fresh(key)
                if kept is not None:
                    found[key] = kept.result
                elif key in self._under_way:
                    waiting[key] = self._under_way[key]
                else:
                    mine[key] = self._under_way[key] = Future()
        return found, mine, waiting

    def _fresh(self, key: str) -> _Kept[T] | None:
        """What is kept under a key, from now on the most recently used, unless it is too old."""
        kept = self._kept.get(key)
        if kept is None or time.monotonic() - kept.since < self._bounds.lifetime_s:
            if kept is not None:
                self._kept.move_to_end(key)
            return kept
        self._forget(key)
        return None

    def _settle(self, mine: Mapping[str, Future[T]], work: Callable[[Sequence[str]], Mapping[str, T | Exception]]) -> None:
        """Do the work and tell everybody who waits for it."""
        try:
            made = work(list(mine))
        except BaseException as error:
            with self._lock:
                for key in mine:
                    self._under_way.pop(key).set_exception(error)
            raise
        left: list[tuple[str, T]] = []
        with self._lock:
            for key, future in mine.items():
                del self._under_way[key]
                result = made[key]
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    left += self._keep(key, result)
                    future.set_result(result)
        for key, result in left:
            self._bounds.left(key, result)

    def _keep(self, key: str, result: T) -> list[tuple[str, T]]:
        """What has to leave for a result, or itself."""
        nbytes = self._bounds.size_of(result)
        if not self._bounds.is_kept(result):
            return []
        if nbytes > self._bounds.most_bytes:
            return [(key, result)]
        self._kept[key] = _Kept(result, nbytes)
        self.nbytes += nbytes
        left = []
        while self.nbytes > self._bounds.most_bytes:
            oldest = next(iter(self._kept))
            left.append((oldest, self._forget(oldest)))
        return left

    def _forget(self, key: str) -> T:
        kept = self._kept.pop(key)
        self.nbytes -= kept.nbytes
        return kept.result


log = logging.getLogger(__name__)

_PART = ".part"
_ABANDONED_S = 3600.0
"""A part as old as this was left by a process that died."""
_DIGEST = 16


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
                self._bytes = drop_least_used(self._folder, self._codec.suffix, self._most_bytes)

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


def drop_least_used(folder: Path, suffix: str, most_bytes: int) -> int:
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
