"""The video files of tasks: where they lie on this machine, fetched whole into a bounded folder where they do not."""

from __future__ import annotations

import os
import stat
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from backend.caches import Bounds, SingleFlight, drop_abandoned, drop_least_used
from backend.images.address import Inline, LocalFile, Remote, Source
from backend.images.fetch import Fetcher
from backend.images.limits import FILM_BYTES_SETTING, MediaOptions, too_large
from backend.values.errors import ImageError

SUFFIX = ".film"
LIFETIME_S = 3600.0
"""How long a fetched film is used again without asking its server whether it changed; an upload never does."""
PATIENCE_S = 600.0
"""How long a film may take to come. Nobody waits for it without being told."""


class FilmFiles:
    """Files of films, for many threads; one that several want at once is fetched once."""

    def __init__(self, options: MediaOptions) -> None:
        self._folder = options.cache_dir / "films"
        self._most_bytes = options.film_cache_bytes
        self._max_bytes = options.max_film_bytes
        self._fetcher = Fetcher(
            replace(
                options,
                max_bytes=self._max_bytes,
                bytes_setting=FILM_BYTES_SETTING,
                read_timeout_s=30.0,
                total_timeout_s=PATIENCE_S,
            )
        )
        self._flights: SingleFlight[Path] = SingleFlight(Bounds(0, lambda path: 1))

    def file(self, source: Source) -> Path:
        """The file of an address. Raises ImageError when it is missing or too large, RemoteError when it cannot be fetched."""
        match source:
            case Inline():
                raise ImageError("a film inside the address is not read; give it by a file or an address")
            case LocalFile():
                return self._local(source.path)
            case Remote():
                return self._flights.do(source.key, lambda: self._fetched(source))

    def close(self) -> None:
        """Close the connections."""
        self._fetcher.close()

    def _local(self, path: Path) -> Path:
        try:
            state = path.stat()
        except OSError as error:
            raise ImageError(f"the file cannot be read: {error.strerror}") from error
        if not stat.S_ISREG(state.st_mode):
            raise ImageError("it is no plain file")
        if state.st_size > self._max_bytes:
            raise too_large(self._max_bytes, FILM_BYTES_SETTING)
        return path

    def _fetched(self, remote: Remote) -> Path:
        path = self._folder / f"{remote.key}{SUFFIX}"
        try:
            age_s = time.time() - path.stat().st_mtime if path.exists() else None
            if age_s is not None and (remote.lasting or age_s < LIFETIME_S):
                os.utime(path, (time.time(), path.stat().st_mtime))
                return path
            self._folder.mkdir(parents=True, exist_ok=True)
            drop_abandoned(self._folder)
            self._fetch_into(remote, path)
            drop_least_used(self._folder, SUFFIX, max(self._most_bytes, path.stat().st_size))
        except OSError as error:
            raise ImageError(f"it cannot be kept in {self._folder}: {error.strerror}") from error
        return path

    def _fetch_into(self, remote: Remote, path: Path) -> None:
        """Whole, or not at all."""
        handle, name = tempfile.mkstemp(suffix=".part", dir=self._folder)
        os.close(handle)
        try:
            self._fetcher.download(remote, Path(name))
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
