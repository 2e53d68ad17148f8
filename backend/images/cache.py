"""How fetched files lie on disk: each in one file that is there as a whole or not at all, the least used ones dropped first."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass, field
from pathlib import Path

from backend.disk_cache import drop_abandoned, write_whole
from backend.images.decode import decode_image
from backend.images.fetch import Fetched, Validators
from prompts.kinds import Image

log = logging.getLogger(__name__)

_SUFFIX = ".image"


@dataclass(frozen=True, slots=True)
class Kept:
    """A file from the cache, ``age_s`` seconds after the server last vouched for it."""

    body: bytes = field(repr=False)
    validators: Validators
    age_s: float


class DiskCache:
    """A folder of files by key, of at most ``most_bytes``. Several processes may share it; it can be deleted at any time.

    Every file begins with a line of JSON (validators, digest); its modification time says when the server last vouched for
    it, its access time when it was last used. A folder that cannot be used costs speed only: it is reported once.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._bytes: int | None = None
        self._lock = threading.Lock()
        self._reported = False

    def get(self, key: str) -> Kept | None:
        if not self._most_bytes:
            return None
        path = self._path(key)
        try:
            confirmed = path.stat().st_mtime
            content = path.read_bytes()
            os.utime(path, (time.time(), confirmed))
        except FileNotFoundError:
            return None
        except OSError as error:
            self._report(error)
            return None
        return _read(content, time.time() - confirmed)

    def put(self, key: str, fetched: Fetched) -> None:
        content = json.dumps(asdict(fetched.validators) | {"digest": _digest(fetched.body)}).encode() + b"\n" + fetched.body
        if len(content) > self._most_bytes:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._path(key), content)
            self._make_room(len(content))
        except OSError as error:
            self._report(error)

    def confirm(self, key: str) -> None:
        """The server vouched for the file just now."""
        try:
            os.utime(self._path(key))
        except FileNotFoundError:
            return
        except OSError as error:
            self._report(error)

    def forget(self, key: str) -> None:
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            self._report(error)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{_SUFFIX}"

    def _make_room(self, added: int) -> None:
        """Look through the folder only when what we know of makes it too large, and the first time."""
        with self._lock:
            if self._bytes is not None:
                self._bytes += added
            if self._bytes is None or self._bytes > self._most_bytes:
                self._bytes = _drop_least_used(self._folder, self._most_bytes)

    def _report(self, error: OSError) -> None:
        if not self._reported:
            self._reported = True
            log.warning("the image cache in %s cannot be used, images are fetched every time: %s", self._folder, error)


def _read(content: bytes, age_s: float) -> Kept | None:
    """A cached file; None when it was damaged."""
    head, _, body = content.partition(b"\n")
    try:
        facts = json.loads(head)
        if facts.pop("digest") != _digest(body):
            return None
        return Kept(body, Validators(**facts), age_s)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _digest(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=16).hexdigest()


def _drop_least_used(folder: Path, most_bytes: int) -> int:
    """Drop files until they take no more than ``most_bytes``; the bytes that are left. Other files are not touched."""
    drop_abandoned(folder)
    files = []
    for path in folder.glob(f"*{_SUFFIX}"):
        try:
            state = path.stat()
        except FileNotFoundError:
            continue
        files.append((state.st_atime, state.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= most_bytes:
            break
        path.unlink(missing_ok=True)
        total -= size
    return total


class DecodedImages:
    """Decoded images by the content of their files, at most ``most_bytes``, the least recently used ones forgotten first.

    The arrays are shared and cannot be written to.
    """

    def __init__(self, most_bytes: int, most_pixels: int) -> None:
        self._most_bytes = most_bytes
        self._most_pixels = most_pixels
        self._bytes = 0
        self._kept: OrderedDict[bytes, Image] = OrderedDict()
        self._lock = threading.Lock()

    def decode(self, body: bytes) -> Image:
        """The image ``(H, W, 3)`` of a file. Raises ImageError when it cannot be decoded."""
        key = hashlib.blake2b(body, digest_size=20).digest()
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        image = decode_image(body, self._most_pixels)
        image.setflags(write=False)
        with self._lock:
            self._keep(key, image)
        return image

    def _keep(self, key: bytes, image: Image) -> None:
        if key in self._kept or image.nbytes > self._most_bytes:
            return
        self._kept[key] = image
        self._bytes += image.nbytes
        while self._bytes > self._most_bytes:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
