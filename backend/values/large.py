"""An image too large to be held whole: its size and key are known, its pixels are read window by window."""

from __future__ import annotations

from collections.abc import Callable

from backend.values.errors import ImageError
from prompts.geometry import Size
from prompts.kinds import Image, KeyedImage

Box = tuple[int, int, int, int]
"""``(x0, y0, x1, y1)`` in pixels, the far sides exclusive."""
ReadWindow = Callable[[Box, int], Image]
"""The pixels ``(h, w, 3)`` of a box, of every so-manieth row and column."""


class LargeImage(KeyedImage):
    """An image of which ``read`` gives windows; whoever asks for all of its pixels gets an ImageError."""

    _size: Size
    _read: ReadWindow

    def __init__(self, key: str, size: Size, read: ReadWindow) -> None:
        for name, value in (("key", key), ("_size", size), ("_read", read)):
            object.__setattr__(self, name, value)

    @property
    def pixels(self) -> Image:
        raise ImageError(f"its {self.size.width} x {self.size.height} pixels are read in windows only, never whole")

    @property
    def size(self) -> Size:
        return self._size

    def window(self, box: Box, step: int = 1) -> KeyedImage:
        """A part of it, shrunk by leaving out rows and columns where ``step`` is more than 1."""
        pixels = self._read(box, step)
        pixels.setflags(write=False)
        return KeyedImage(pixels, f"{self.key}@{','.join(map(str, box))}/{step}")
