"""Windows of files that are too large to be read whole: TIFFs memory-mapped where they lie bare, else their tiles or strips,
and all that libvips reads where that is installed.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from backend.images.decode import opened
from backend.images.deep import LARGEST_PIECE, Bands, Values, as_rgb, has_alpha, is_tiff, shown_bands
from backend.images.limits import LargeImage
from backend.values.errors import ImageError, install_command
from prompts.geometry import PixelBox, Size
from prompts.kinds import Image

HELD_BYTES = 128 << 20
"""What decoded tiles of one file may take."""
SAMPLES = 36
"""Where a file has more than 8 bits, so many small windows over it say what is black and what is white."""
SAMPLE_SIDE = 64
PERCENTILES = (2.0, 98.0)


def open_large(path: Path, most_pixels: int, bands: Bands = ()) -> LargeImage | None:
    """A file of more than ``most_pixels`` as windows: a TIFF, and where the extra ``large`` is installed any image; None for
    what is read whole or refused. ``bands`` are shown of a file that has more than three.

    Raises ImageError when its windows cannot be read.
    """
    if (size := _size_of(path)) is None or size.pixels <= most_pixels or (reader := _reader(path, bands)) is None:
        return None
    state = path.stat()
    key = hashlib.blake2b(f"{path}:{state.st_size}:{state.st_mtime_ns}:{bands}".encode(), digest_size=20).hexdigest()
    return LargeImage(key, reader.size, reader.read)


def _reader(path: Path, bands: Bands) -> WindowReader | VipsReader | None:
    """Whoever can read windows of a file: tifffile, or libvips what that cannot."""
    with path.open("rb") as file:
        if not is_tiff(file.read(4)):
            return VipsReader(path, bands) if find_spec("pyvips") else None
    try:
        return WindowReader(path, bands)
    except NeedsLibrary as error:
        if find_spec("pyvips"):
            return VipsReader(path, bands)
        raise ImageError(f"{error}: run {install_command('large')}") from error


def _size_of(path: Path) -> Size | None:
    """The size of an image, of a TIFF its first page; None for what is none, or a broken one: whoever reads it whole says what
    is wrong. A pipe is never opened, as that waits for somebody to write.
    """
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            if is_tiff(file.read(4)):
                with tifffile.TiffFile(path) as tiff:
                    return Size(int(tiff.pages.first.imagelength), int(tiff.pages.first.imagewidth))
        with opened(path) as image:
            return Size(image.height, image.width)
    except Exception:  # whatever readers trip over
        return None


class NeedsLibrary(ImageError):
    """A file can be read, but not by what is installed without the extra."""


class Windows:
    """What readers of windows have in common: how values become colours. ``size``, ``dtype`` and the bands that are shown are
    the file's; ``common`` says that all bands are of one scale.
    """

    size: Size
    dtype: np.dtype[Any]
    bands: Bands
    common = False
    inverted = False
    _limits: tuple[Values, Values] | None = None

    def values(self, box: PixelBox, step: int) -> Values:
        """The shown bands ``(h, w, C)`` of a box, of every so-manieth row and column."""
        raise NotImplementedError

    def read(self, box: PixelBox, step: int = 1) -> Image:
        """The pixels ``(h, w, 3)`` of a box, of every so-manieth row and column; memory holds the box's strips for a moment."""
        values = self.values(box, step)
        if self._limits is not None:
            low, high = self._limits
            values = np.rint(np.clip((values.astype(np.float32) - low) / (high - low), 0, 1) * 255).astype(np.uint8)
        return np.ascontiguousarray(as_rgb(255 - values if self.inverted else values))

    def measure(self) -> None:
        """Look at the values for black and white of each band; those of 8 bits are shown as they are."""
        if self.dtype == np.uint8:
            return
        side = int(np.sqrt(SAMPLES))
        found = []
        for row in range(side):
            for column in range(side):
                x = max(int((self.size.width - SAMPLE_SIDE) * column / (side - 1)), 0)
                y = max(int((self.size.height - SAMPLE_SIDE) * row / (side - 1)), 0)
                right, bottom = min(x + SAMPLE_SIDE, self.size.width), min(y + SAMPLE_SIDE, self.size.height)
                found.append(self.values((x, y, right, bottom), 1).reshape(-1, len(self.bands)).astype(np.float64))
        known = np.ma.masked_invalid(np.concatenate(found)).filled(0.0)
        low, high = np.percentile(known, PERCENTILES, axis=0)
        if self.common:
            low, high = np.full_like(low, low.min()), np.full_like(high, high.max())
        self._limits = low, np.where(high > low, high, low + 1)


class VipsReader(Windows):
    """Any image that libvips reads, for many threads. What has no tiles is unpacked to a file of its own, not into memory."""

    def __init__(self, path: Path, bands: Bands = ()) -> None:
        import pyvips

        try:
            image = pyvips.Image.new_from_file(str(path), access="random").autorot()
            if image.hasalpha() and image.format == "uchar":
                image = image.flatten(background=255)
            self.size, self.dtype = Size(image.height, image.width), np.dtype(image.crop(0, 0, 1, 1).numpy().dtype)
            self.bands = shown_bands(image.bands, bands) or tuple(range(min(image.bands, 3)))
            self._image = image[self.bands[0]].bandjoin([image[band] for band in self.bands[1:]])
            self.common = image.interpretation in ("srgb", "rgb16", "rgb") and not bands
            self.measure()
        except pyvips.Error as error:
            raise ImageError(f"libvips cannot read it: {' '.join(str(error).split())}") from error

    def values(self, box: PixelBox, step: int) -> Values:
        """See Windows."""
        part: Values = self._image.crop(box[0], box[1], box[2] - box[0], box[3] - box[1]).numpy()
        return (part if part.ndim == 3 else part[..., None])[::step, ::step]


class WindowReader(Windows):
    """The first page of a TIFF, for many threads; decoded tiles are kept up to a bound. Of more than three bands the first
    three are shown, or those of ``bands``, counted from 0.
    """

    def __init__(self, path: Path, bands: Bands = ()) -> None:
        self._path = path
        with tifffile.TiffFile(path) as file:
            self._page = file.pages.first
            self._is_bare = bool(self._page.is_memmappable)
        self.size = Size(int(self._page.imagelength), int(self._page.imagewidth))
        self.dtype = np.dtype(self._page.dtype)
        self._count = int(self._page.samplesperpixel)
        chosen = shown_bands(self._count, () if has_alpha(self._page) else bands)
        self.bands = chosen or tuple(range(min(self._count, 3)))
        self.common = self._page.photometric == tifffile.PHOTOMETRIC.RGB and not chosen
        self.inverted = self._page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
        self._lock = threading.Lock()
        self._held: OrderedDict[int, Values] = OrderedDict()
        self._check()
        self.measure()

    def _check(self) -> None:
        page = self._page
        if int(page.tags.valueof(274, 1)) != 1:
            raise NeedsLibrary("it lies on its side (TIFF orientation), which needs libvips in images that are not read whole")
        item = page.dtype.itemsize if page.dtype else 8
        if not self._is_bare and np.prod([int(side) for side in page.chunks]) * item > LARGEST_PIECE:
            raise ImageError(f"it is stored in pieces of more than {LARGEST_PIECE >> 20} MiB; use tiles")
        if not self._is_bare and any(page.dataoffsets):
            self._try_decoding()

    def _try_decoding(self) -> None:
        """Decode the first tile or strip that there is. Raises NeedsLibrary where that takes another package."""
        page = self._page
        index = next(number for number, offset in enumerate(page.dataoffsets) if offset)
        with self._path.open("rb") as file:
            file.seek(page.dataoffsets[index])
            body = file.read(page.databytecounts[index])
        try:
            page.decode(body, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
        except Exception as error:
            raise NeedsLibrary(f"its tiles cannot be decoded by what is installed ({error})") from error

    def values(self, box: PixelBox, step: int) -> Values:
        """See Windows."""
        x0, y0, x1, y1 = box
        if self._is_bare:
            return self._mapped(box, step)
        shape = (-(-(y1 - y0) // step), -(-(x1 - x0) // step), len(self.bands))
        values = np.zeros(shape, self._page.dtype)
        for band, (top, left), piece in self._pieces(box):
            rows, columns = _grid(top, piece.shape[0], y0, y1, step), _grid(left, piece.shape[1], x0, x1, step)
            part = piece[rows.start - top : rows.stop - top : step, columns.start - left : columns.stop - left : step]
            there = np.s_[
                (rows.start - y0) // step : (rows.start - y0) // step + part.shape[0],
                (columns.start - x0) // step : (columns.start - x0) // step + part.shape[1],
            ]
            if band is None:
                values[there] = part[..., list(self.bands)]
            else:
                values[(*there, self.bands.index(band))] = part[..., 0]
        return values

    def _mapped(self, box: PixelBox, step: int) -> Values:
        """Mapped for this window alone, so that what was read leaves memory with it."""
        x0, y0, x1, y1 = box
        mapped: Values = tifffile.memmap(self._path, page=0, mode="r")
        if mapped.ndim == 2:
            mapped = mapped[..., None]
        elif self._page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
            mapped = np.moveaxis(mapped, 0, -1)
        return np.ascontiguousarray(mapped[y0:y1:step, x0:x1:step][..., list(self.bands)])

    def _pieces(self, box: PixelBox) -> Iterator[tuple[int | None, tuple[int, int], Values]]:
        """The tiles or strips that a box touches: their band (None: all), their corner ``(row, column)`` and their values."""
        page = self._page
        height = int(page.tilelength if page.is_tiled else page.rowsperstrip)
        width = int(page.tilewidth if page.is_tiled else page.imagewidth)
        across, down = -(-self.size.width // width), -(-self.size.height // height)
        is_apart = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and self._count > 1
        x0, y0, x1, y1 = box
        for band in self.bands if is_apart else (None,):
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
        tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        piece = page.decode(body, index, **tables)[0] if body else None
        values: Values = np.zeros((height, width, self._count), page.dtype) if piece is None else piece[0]
        with self._lock:
            self._held[index] = values
            while len(self._held) > 1 and sum(each.nbytes for each in self._held.values()) > HELD_BYTES:
                self._held.popitem(last=False)
        return values


def _grid(start: int, length: int, low: int, high: int, step: int) -> slice:
    """The rows (or columns) of a piece that begins at ``start`` which are in ``low, low + step, ...`` below ``high``."""
    first = max(start, low)
    first += -(first - low) % step
    last = min(start + length, high)
    return slice(first, max(first, last), step)
