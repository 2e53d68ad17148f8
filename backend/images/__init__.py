"""A task's image: from what the task's data says to an upright RGB array, wherever the image lies."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TypeVar

from backend.caches import Bounds, Codec, DiskCache, SingleFlight
from backend.images.address import Folders, Inline, LocalFile, Remote, Source, locate, read_file, shown, state_of
from backend.images.decode import decode_image
from backend.images.deep import Bands
from backend.images.fetch import Fetched, Fetcher, Validators
from backend.images.films import FilmFiles
from backend.images.limits import LargeImage, MediaOptions, too_large
from backend.images.sites import Sites
from backend.images.windows import HELD_BYTES, open_large
from backend.telemetry import stage
from backend.values.errors import ImageError, RemoteError, VideoError
from prompts.kinds import KeyedImage


def image_cache(folder: Path, most_bytes: int) -> DiskCache[Fetched]:
    """Fetched files by address, at most ``most_bytes``; a file's age is the time since its server last vouched for it."""
    return DiskCache(folder, "", most_bytes, Codec("fetched images", ".image", _write, _read))


def _write(fetched: Fetched) -> bytes:
    return json.dumps(asdict(fetched.validators)).encode() + b"\n" + fetched.body


def _read(content: bytes) -> Fetched:
    head, _, body = content.partition(b"\n")
    return Fetched(body, Validators(**json.loads(head)))


class DecodedImages:
    """Decoded images by the content of their files, and files on this machine by their state, at most ``most_bytes`` of both,
    the least recently used ones forgotten first.

    The arrays are shared and cannot be written to.
    """

    def __init__(self, most_bytes: int, most_pixels: int, bands: Bands = ()) -> None:
        self._most_pixels, self._bands = most_pixels, bands
        self._images: SingleFlight[KeyedImage] = SingleFlight(Bounds(most_bytes, _bytes_of))

    @property
    def nbytes(self) -> int:
        """What is in memory now."""
        return self._images.nbytes

    def decode(self, body: bytes) -> KeyedImage:
        """The image of a file. Raises ImageError when it cannot be decoded."""
        key = self._key(body)
        return self._images.do(key, lambda: self._decoded(body, key))

    def open(self, path: Path, most_bytes: int) -> KeyedImage:
        """The image of a file on this machine, which is looked into again only when it has changed, or has just done so; read
        in windows where it is too large for anything else. Raises ImageError when it is missing, has more than ``most_bytes``
        or cannot be decoded.
        """
        state = state_of(path)
        if state is None:
            return open_large(path, self._most_pixels, self._bands) or self.decode(read_file(path, most_bytes))
        return self._images.do(state, lambda: self._opened(path, most_bytes))

    def _opened(self, path: Path, most_bytes: int) -> KeyedImage:
        large = open_large(path, self._most_pixels, self._bands)
        if large is not None:
            return large
        body = read_file(path, most_bytes)
        return self._decoded(body, self._key(body))

    def _key(self, body: bytes) -> str:
        return hashlib.blake2b(body, digest_size=20, salt=bytes(self._bands)[:16]).hexdigest()

    def _decoded(self, body: bytes, key: str) -> KeyedImage:
        image = decode_image(body, self._most_pixels, self._bands)
        image.setflags(write=False)
        return KeyedImage(image, key)


def _bytes_of(image: KeyedImage) -> int:
    """What a decoded image takes, and one read in windows at most."""
    return HELD_BYTES if isinstance(image, LargeImage) else image.pixels.nbytes


T = TypeVar("T")


UNVOUCHED_LIFETIME_S = 60.0
"""How long a file is used again that came without validators, so that its server cannot be asked whether it changed."""


class Media:
    """The images of tasks, for many threads. Nothing is fetched before the first ``load``."""

    def __init__(self, options: MediaOptions) -> None:
        self._options = options
        self._sites = Sites(options.label_studio_url, options.token)
        self._folders = Folders(options.local_roots)
        self._cache = image_cache(options.cache_dir, options.cache_bytes)
        self._decoded = DecodedImages(options.decoded_bytes, options.max_pixels, options.bands)
        self._fetcher = Fetcher(options)
        self._films = FilmFiles(options)
        self._asked = _Newest()
        self._flights: SingleFlight[KeyedImage] = SingleFlight(Bounds(0, lambda image: 3 * image.size.pixels))
        _keep_addresses_out_of_logs()

    def register(self, project: str, hostname: str | None, access_token: str | None) -> None:
        """What Label Studio said of itself for a project in /setup."""
        self._sites.register(project, hostname, access_token)

    def load(self, url: str, project: str, task_id: str | None) -> KeyedImage:
        """The upright image, with a key of its file's content; its pixels are shared and cannot be written to.

        Raises:
            ImageError: the address is not allowed, or there is no whole image of an allowed size.
            RemoteError: Label Studio or another server does not answer, or does not accept the token.
        """
        with _told(url, task_id):
            source = self._locate(url, project, task_id)
            self._asked.put(source.key)
            with stage("load"):
                return self._flights.do(source.key, lambda: self._open(source))

    def knows(self, url: str, project: str) -> bool:
        """Whether an image lies here or on the project's Label Studio, or has been asked for before: to fetch it asks no host
        that has not been asked already.
        """
        try:
            source = self._locate(url, project, "")
        except ImageError:
            return True  # nothing is asked
        if not isinstance(source, Remote) or source.site is not None:
            return True
        return source.key in self._asked or self._cache.age_s(source.key) < math.inf

    def read(self, url: str, project: str, task_id: str | None) -> bytes:
        """The file of an image as it is stored, whatever is in it. Raises like ``load``."""
        with _told(url, task_id):
            return self._body(self._locate(url, project, task_id), lambda body: body)

    def film(self, url: str, project: str, task_id: str) -> Path:
        """The video file of a task, on this machine: it lies here, or was fetched.

        Raises:
            VideoError: the address is not allowed, or there is no file of an allowed size.
            RemoteError: Label Studio or another server does not answer, or does not accept the token.
        """
        try:
            return self._films.file(locate(url, self._folders, partial(self._sites.of, project), task_id or None))
        except ImageError as error:
            raise VideoError(f"the video of task {task_id} cannot be had, {shown(url)}: {error}") from error
        except RemoteError as error:
            message = f"the video of task {task_id} cannot be had, {shown(url)}: {error}"
            raise RemoteError(message, error.status, error.after_s) from error

    def close(self) -> None:
        """Close the connections."""
        self._fetcher.close()
        self._films.close()

    def _locate(self, url: str, project: str, task_id: str | None) -> Source:
        return locate(url, self._folders, partial(self._sites.of, project), task_id)

    def _open(self, source: Source) -> KeyedImage:
        """An image read whole or, of a file on this machine that cannot be, in windows."""
        if isinstance(source, LocalFile):
            return self._decoded.open(source.path, self._options.max_bytes)
        return self._body(source, self._decoded.decode)

    def _body(self, source: Source, use: Callable[[bytes], T]) -> T:
        """What is made of a file; a fetched one is kept when it can be used."""
        match source:
            case Inline():
                if len(source.body) > self._options.max_bytes:
                    raise too_large(self._options.max_bytes)
                return use(source.body)
            case LocalFile():
                return use(read_file(source.path, self._options.max_bytes))
            case Remote():
                return self._remote_body(source, use)

    def _remote_body(self, remote: Remote, use: Callable[[bytes], T]) -> T:
        age_s, kept = self._cache.age_s(remote.key), self._cache.get(remote.key)
        if kept and (remote.lasting or (not kept.validators and age_s < UNVOUCHED_LIFETIME_S)):
            return use(kept.body)
        fetched = self._fetcher.fetch(remote, kept.validators if kept else Validators())
        if kept and fetched is None:
            self._cache.confirm(remote.key)
            return use(kept.body)
        if fetched is None:
            raise RemoteError("the server says that it did not change, but was never asked that")
        used = use(fetched.body)
        self._cache.put(remote.key, fetched)
        return used


class _Newest:
    """The newest of many names, for many threads."""

    def __init__(self, most: int = 100_000) -> None:
        self._most = most
        self._names: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def put(self, name: str) -> None:
        with self._lock:
            self._names[name] = None
            self._names.move_to_end(name)
            if len(self._names) > self._most:
                self._names.popitem(last=False)


@contextmanager
def _told(url: str, task_id: str | None) -> Iterator[None]:
    """Say in every error which image of which task it is about."""
    task = "an image" if task_id is None else f"the image of task {task_id}"
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{task} cannot be had, {shown(url)}: {error}") from error
    except RemoteError as error:
        raise RemoteError(f"{task} cannot be had, {shown(url)}: {error}", error.status, error.after_s) from error


def _keep_addresses_out_of_logs() -> None:
    """httpx logs every address at INFO and httpcore every header of an answer at DEBUG; both may carry signatures."""
    for name, level in (("httpx", logging.WARNING), ("httpcore", logging.INFO)):
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(level)
