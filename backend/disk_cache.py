"""How a file is written: it is there as a whole or not at all, whoever dies meanwhile."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load, save

from backend import __version__
from backend.values.features import ImageFeatures
from prompts.geometry import Size

_PART = ".part"
_ABANDONED_S = 3600.0
"""A part as old as this was left by a process that died."""


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


log = logging.getLogger(__name__)

_SUFFIX = ".features"
_DIGEST = 16
_GRID, _SIZE, _OTHER = "grid", "size", "of."


class DiskSpill:
    """A folder of encoded images of at most ``most_bytes``; several engines and processes may share it, and it can be deleted.

    ``space`` names what the features belong to (engine, number format): features of another space, or of another release of
    Maskloom, which may see images in another way, are never read. A file is a digest of its space, its key and its content,
    then the content in safetensors. A damaged file is as good as none, and a folder that cannot be used costs speed only: it
    is reported once.
    """

    def __init__(self, folder: Path, space: str, most_bytes: int) -> None:
        self._folder = folder
        self._space = f"{__version__} {space}"
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._reported = False

    def get(self, key: str) -> ImageFeatures | None:
        """The features that were put under a key, on the CPU."""
        path = self._path(key)
        try:
            content = path.read_bytes()
            body = content[_DIGEST:]
            if content[:_DIGEST] != self._digest(key, body):
                path.unlink()
                return None
            os.utime(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._report(error)
            return None
        return _read(body)

    def put(self, key: str, features: ImageFeatures) -> None:
        """Keep features on disk, unless they are there already or larger than everything that there may be."""
        path = self._path(key)
        try:
            if features.nbytes > self._most_bytes or path.exists():
                return
            body = _write(features)
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._lock:
                write_whole(path, self._digest(key, body) + body)
                self._make_room()
        except (OSError, RuntimeError) as error:
            self._report(error)

    def _path(self, key: str) -> Path:
        name = hashlib.blake2b(f"{self._space}\n{key}".encode(), digest_size=_DIGEST).hexdigest()
        return self._folder / f"{name}{_SUFFIX}"

    def _digest(self, key: str, body: bytes) -> bytes:
        digest = hashlib.blake2b(f"{self._space}\n{key}\n".encode(), digest_size=_DIGEST)
        digest.update(body)
        return digest.digest()

    def _make_room(self) -> None:
        drop_abandoned(self._folder)
        files = sorted(_states(self._folder), reverse=True)
        total = 0
        for _, size, path in files:
            total += size
            if total > self._most_bytes:
                path.unlink(missing_ok=True)

    def _report(self, error: Exception) -> None:
        if not self._reported:
            self._reported = True
            log.warning("encoded images cannot be kept in %s, they are encoded again when needed: %s", self._folder, error)


def _states(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """When each file was last used, its bytes and its path."""
    for path in folder.glob(f"*{_SUFFIX}"):
        try:
            state = path.stat()
        except FileNotFoundError:
            continue
        yield state.st_mtime_ns, state.st_size, path


def _write(features: ImageFeatures) -> bytes:
    tensors = {_GRID: features.grid, **{_OTHER + name: tensor for name, tensor in features.tensors.items()}}
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return bytes(save({**whole, _SIZE: torch.tensor([features.size.height, features.size.width])}))


def _read(body: bytes) -> ImageFeatures:
    tensors = load(body)
    height, width = tensors.pop(_SIZE).tolist()
    grid = tensors.pop(_GRID)
    return ImageFeatures(Size(height, width), grid, {name.removeprefix(_OTHER): tensor for name, tensor in tensors.items()})
