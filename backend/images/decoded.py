"""Which images were decoded last: several prompts on one photo decode it once."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

from backend.images.decode import decode_image
from prompts.kinds import Image


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
