"""What is kept of images: fetched files on disk with what their servers gave along, decoded images in memory."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from backend.disk_cache import Codec, DiskCache
from backend.images.decode import decode_image
from backend.images.fetch import Fetched, Validators
from backend.single_flight import Bounds, SingleFlight
from prompts.kinds import Image, KeyedImage


def image_cache(folder: Path, most_bytes: int) -> DiskCache[Fetched]:
    """Fetched files by address, at most ``most_bytes``; a file's age is the time since its server last vouched for it."""
    return DiskCache(folder, "", most_bytes, Codec("fetched images", ".image", _write, _read))


def _write(fetched: Fetched) -> bytes:
    return json.dumps(asdict(fetched.validators)).encode() + b"\n" + fetched.body


def _read(content: bytes) -> Fetched:
    head, _, body = content.partition(b"\n")
    return Fetched(body, Validators(**json.loads(head)))


class DecodedImages:
    """Decoded images by the content of their files, at most ``most_bytes``, the least recently used ones forgotten first.

    The arrays are shared and cannot be written to.
    """

    def __init__(self, most_bytes: int, most_pixels: int) -> None:
        self._most_pixels = most_pixels
        self._images: SingleFlight[Image] = SingleFlight(Bounds(most_bytes, lambda image: image.nbytes))

    @property
    def nbytes(self) -> int:
        """What is in memory now."""
        return self._images.nbytes

    def decode(self, body: bytes) -> KeyedImage:
        """The image of a file. Raises ImageError when it cannot be decoded."""
        key = hashlib.blake2b(body, digest_size=20).hexdigest()
        return KeyedImage(self._images.do(key, lambda: self._decoded(body)), key)

    def _decoded(self, body: bytes) -> Image:
        image = decode_image(body, self._most_pixels)
        image.setflags(write=False)
        return image
