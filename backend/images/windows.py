"""Windows of TIFF files that are too large to be read whole: memory-mapped where they lie bare, else their tiles or strips."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from backend.images.decode import LARGEST_PIECE, as_rgb, is_tiff
from backend.images.limits import Box, LargeImage
from backend.values.errors import ImageError
from prompts.geometry import Size
from prompts.kinds import Image

Values = NDArray[Any]
HELD_BYTES = 128 << 20
"""What decoded tiles of one file may take."""
SAMPLES = 36
"""Where a file has more than 8 bits, so many small windows over it say what is black and what is white."""
SAMPLE_SIDE = 64
PERCENTILES = (2.0, 98.0)


def open_large(path: Path, most_pixels: int) -> LargeImage | None:
    """A TIFF of more than ``most_pixels`` as windows; None for any other file, which is read whole or refused.

    Raises ImageError when its windows cannot be read.
    """
    if (size := _size_of_tiff(path)) is None or size.pixels <= most_pixels:
        return None
    reader = WindowReader(path)
    state = path.stat()
    key = hashlib.blake2b(f"{path}:{state.st_size}:{state.st_mtime_ns}".encode(), digest_size=20).hexdigest()
    return LargeImage(key, reader.size, reader.read)


def _size_of_tiff(path: Path) -> Size | None:
    """The size of a TIFF's first page; None for what is none, or a broken one: whoever reads it whole says what is wrong. A
    pipe is never opened, as that waits for somebody to write.
    """
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            if not is_tiff(file.read(4)):
                return None
        with tifffile.TiffFile(path) as tiff:
            return Size(int(tiff.pages.first.imagelength), int(tiff.pages.first.imagewidth))
    except Exception:  # whatever tifffile trips over
        return None


class WindowReader:
    """The first page of a TIFF, for many threads; decoded tiles are kept up to a bound. Of more than three bands the first
    three are shown, or those of ``bands``, counted from 0.
    """

    def __init__(self, path: Path, bands: tuple[int, ...] = ()) -> None:
        self._path = path
        with tifffile.TiffFile(path) as file:
            self._page = file.pages.first
            self._is_bare = bool(self._page.is_memmappable)
        self.size = Size(int(self._page.imagelength), int(self._page.imagewidth))
        self._count = int(self._page.samplesperpixel)
        self._bands = bands or tuple(range(min(self._count, 3)))
        self._lock = threading.Lock()
        self._held: OrderedDict[int, Values] = OrderedDict()
        self._check()
        self._limits = self._measure()

    def read(self, box: Box, step: int = 1) -> Image:
        """The pixels ``(h, w, 3)`` of a box, of every so-manieth row and column; memory holds the box's strips for a moment."""
        return self._shown(self._values(box, step))

    def _check(self) -> None:
        page = self._page
        if int(page.tags.valueof(274, 1)) != 1:
            raise ImageError("it lies on its side (TIFF orientation), which only works for images that are read whole")
        item = page.dtype.itemsize if page.dtype else 8
        if not self._is_bare and np.prod([int(side) for side in page.chunks]) * item > LARGEST_PIECE:
            raise ImageError(f"it is stored in pieces of more than {LARGEST_PIECE >> 20} MiB; use tiles")

    def _values(self, box: Box, step: int) -> Values:
        """The chosen bands ``(h, w, C)`` of a box."""
        x0, y0, x1, y1 = box
        if self._is_bare:
            return self._mapped(box, step)
        shape = (-(-(y1 - y0) // step), -(-(x1 - x0) // step), len(self._bands))
        values = np.zeros(shape, self._page.dtype)
        for band, (top, left), piece in self._pieces(box):
            rows, columns = _grid(top, piece.shape[0], y0, y1, step), _grid(left, piece.shape[1], x0, x1, step)
            part = piece[rows.start - top : rows.stop - top : step, columns.start - left : columns.stop - left : step]
            there = np.s_[
                (rows.start - y0) // step : (rows.start - y0) // step + part.shape[0],
                (columns.start - x0) // step : (columns.start - x0) // step + part.shape[1],
            ]
            if band is None:
                values[there] = part[..., list(self._bands)]
            else:
                values[(*there, self._bands.index(band))] = part[..., 0]
        return values

    def _mapped(self, box: Box, step: int) -> Values:
        """Mapped for this window alone, so that what was read leaves memory with it."""
        x0, y0, x1, y1 = box
        mapped: Values = tifffile.memmap(self._path, page=0, mode="r")
        if mapped.ndim == 2:
            mapped = mapped[..., None]
        elif self._page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
            mapped = np.moveaxis(mapped, 0, -1)
        return np.ascontiguousarray(mapped[y0:y1:step, x0:x1:step][..., list(self._bands)])

    def _pieces(self, box: Box) -> Iterator[tuple[int | None, tuple[int, int], Values]]:
        """The tiles or strips that a box touches: their band (None: all), their corner ``(row, column)`` and their values."""
        page = self._page
        height = int(page.tilelength if page.is_tiled else page.rowsperstrip)
        width = int(page.tilewidth if page.is_tiled else page.imagewidth)
        across, down = -(-self.size.width // width), -(-self.size.height // height)
        is_apart = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and self._count > 1
        x0, y0, x1, y1 = box
        for band in self._bands if is_apart else (None,):
            for row in range(y0 // height, -(-y1 // height)):
                for column in range(x0 // width, -(-x1 // width)):
                    index = (band or 0) * across * down + row * across + column
                    piece = self._piece(index, height, width)
                    yield band, (row * height, column * width), piece

    def _piece(self, index: int, height: int, width: int) -> Values:
        """One tile or strip ``(h, w, C)``, decoded."""
        page = self._page
        with self._lock:
            if index in self._held:
                self._held.move_to_end(index)
                return self._held[index]
        count = page.databytecounts[index]
        with self._path.open("rb") as file:
            file.seek(page.dataoffsets[index])
            body = file.read(count)
        piece = page.decode(body, index)[0] if body else None
        values: Values = np.zeros((height, width, self._count), page.dtype) if piece is None else piece[0]
        with self._lock:
            self._held[index] = values
            while len(self._held) > 1 and sum(each.nbytes for each in self._held.values()) > HELD_BYTES:
                self._held.popitem(last=False)
        return values

    def _measure(self) -> tuple[Values, Values] | None:
        """The values for black and white of each band; None for 8 bits, which are shown as they are."""
        if self._page.dtype == np.uint8:
            return None
        side = int(np.sqrt(SAMPLES))
        found = []
        for row in range(side):
            for column in range(side):
                x = int((self.size.width - SAMPLE_SIDE) * column / (side - 1))
                y = int((self.size.height - SAMPLE_SIDE) * row / (side - 1))
                values = self._values((max(x, 0), max(y, 0), max(x, 0) + SAMPLE_SIDE, max(y, 0) + SAMPLE_SIDE), 1)
                found.append(values.reshape(-1, len(self._bands)).astype(np.float64))
        known = np.ma.masked_invalid(np.concatenate(found)).filled(0.0)
        low, high = np.percentile(known, PERCENTILES, axis=0)
        if self._page.photometric == tifffile.PHOTOMETRIC.RGB:
            low, high = np.full_like(low, low.min()), np.full_like(high, high.max())
        return low, np.where(high > low, high, low + 1)

    def _shown(self, values: Values) -> Image:
        if self._limits is None:
            shown = values
        else:
            low, high = self._limits
            shown = np.rint(np.clip((values.astype(np.float32) - low) / (high - low), 0, 1) * 255).astype(np.uint8)
        if self._page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            shown = 255 - shown
        return np.ascontiguousarray(as_rgb(shown))


def _grid(start: int, length: int, low: int, high: int, step: int) -> slice:
    """The rows (or columns) of a piece that begins at ``start`` which are in ``low, low + step, ...`` below ``high``."""
    first = max(start, low)
    first += -(first - low) % step
    last = min(start + length, high)
    return slice(first, max(first, last), step)
