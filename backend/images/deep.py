"""More than eight bits or three bands as RGB pixels: what is black and what is white, which bands are shown, and how many
images are decoded at once.
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from backend.images.limits import BANDS_SETTING, check_pixels
from backend.values.errors import ImageError
from prompts.geometry import Size, size_of
from prompts.kinds import Image

Values = NDArray[Any]
Bands = tuple[int, ...]
"""The bands that are shown of a file with more than three, counted from 0; none are the first three."""

PERCENTILES = (2.0, 98.0)
_SAMPLE = 1_000_000
_STRIP = 1_000_000
"""Values that are worked on at once: as float64 with a few intermediate results some 50 MB, however large the image."""
_KEPT_BYTES = 32 << 20
"""The parts of an image that takes no more are kept, and read once."""
_READ_BYTES = 4 << 20
"""So much of a TIFF is read at once, or one strip or tile."""
AT_ONCE_BYTES = 1 << 30
"""What all images that are being decoded may take together; a single one may take more, alone."""


class DecodeGate:
    """Lets threads decode as long as all of them together stay below ``most_bytes``; a larger image waits to be alone."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def room_for(self, size: int) -> Iterator[None]:
        """Wait until there is room for so many bytes, and hold it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + size <= self._most_bytes)
            self._used += size
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()


GATE = DecodeGate(AT_ONCE_BYTES)


Part = tuple[slice, slice, int, Sequence[Values]]
"""Some rows and columns of an image, the first of the bands that are there, and the values ``(h, w)`` of each."""
Shade = Callable[[Values, int], Image]
"""Values of a band as brightness."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An image as it is stored: one band of grey, or red, green and blue, and a fourth that says how opaque all is.

    Its ``parts``, which take ``nbytes`` together, are read one at a time, anew with each call: it is never held whole. Bands
    are of one scale where they are the colours of a picture (``is_colour``).
    """

    size: Size
    bands: int
    dtype: np.dtype[Any]
    nbytes: int
    parts: Callable[[], Iterable[Part]]
    is_colour: bool = False
    nodata: float | None = None

    @classmethod
    def whole(cls, bands: Sequence[Values], is_colour: bool, nodata: float | None = None) -> Stored:
        """Bands ``(H, W)`` in memory."""
        every, first = slice(None), bands[0]
        return cls(size_of(first), len(bands), first.dtype, 0, lambda: [(every, every, 0, bands)], is_colour, nodata)

    def shown(self) -> Image:
        """``(H, W, 3)`` over white; more than eight bits are read twice, as what is black and white is known in the end."""
        if self.dtype == np.uint8:
            return self._painted(self.parts(), lambda values, band: values)
        if not (np.issubdtype(self.dtype, np.integer) or np.issubdtype(self.dtype, np.floating)):
            raise ImageError(f"its values are of the type {self.dtype}, which has no brightness")
        kept = list(self.parts()) if self.nbytes <= _KEPT_BYTES else None
        limits = self._limits(kept or self.parts())
        return self._painted(kept or self.parts(), self._shade(limits))

    def _limits(self, parts: Iterable[Part]) -> list[tuple[float, float]]:
        """The values for black and white of each band, or of the colours together."""
        colours = min(self.bands, 3)
        every = max(1, self.size.pixels * (colours if self.is_colour else 1) // _SAMPLE)
        samples: list[list[Values]] = [[] for _ in range(colours)]
        seen = [0] * colours
        for _, _, first, bands in parts:
            for band, values in enumerate(bands[: colours - first] if first < colours else (), first):
                samples[band].append(values.flat[-seen[band] % every :: every].astype(np.float64))
                seen[band] += values.size
        if self.is_colour:
            samples = [[values for each in samples for values in each]] * colours
        return [_limits(np.concatenate(each or [np.zeros(0)]), self.dtype, self.nodata) for each in samples]

    def _shade(self, limits: Sequence[tuple[float, float]]) -> Shade:
        """How values between black and white become bytes; those of 16 bits by a table, which is quicker."""

        def shade(values: Values, band: int) -> Image:
            low, high = limits[band]
            exact = values.astype(np.float64)
            known = np.isfinite(exact) & (exact != self.nodata)
            shares = np.clip((np.where(known, exact, low) - low) / (high - low), 0, 1)
            return np.rint(shares * 255).astype(np.uint8)

        if self.dtype.kind not in "iu" or self.dtype.itemsize != 2:
            return shade
        every = np.arange(1 << 16).astype(np.uint16)
        tables = [shade(every.astype(self.dtype), band) for band in range(len(limits))]
        return lambda values, band: tables[band][values.astype(np.uint16)]

    def _painted(self, parts: Iterable[Part], shade: Shade) -> Image:
        """All parts in one array; where there is none it is black."""
        out = np.zeros((self.size.height, self.size.width, 3), np.uint8)
        for rows, columns, first, bands in parts:
            there = out[rows, columns]
            for strip in strips(there.shape):
                for band, values in enumerate(bands, first):
                    if self.bands == 1:
                        there[strip] = shade(values[strip], band)[..., None]
                    elif band < 3:
                        there[strip, :, band] = shade(values[strip], band)
                    else:
                        there[strip] = over_white(there[strip], values[strip])
        return out


def stretch_bands(values: Values) -> Image:
    """A band ``(H, W)`` between its percentiles, as grey ``(H, W, 3)``."""
    return Stored.whole([values], is_colour=False).shown()


def over_white(rgb: Image, alpha: Values) -> Image:
    """``rgb (H, W, 3)`` on white where ``alpha (H, W)``, of an unsigned integer type, is transparent."""
    out, most = np.empty(rgb.shape, np.uint8), np.iinfo(alpha.dtype).max
    for rows in strips(rgb.shape):
        share = alpha[rows, :, None].astype(np.float32) / most
        out[rows] = np.rint(rgb[rows] * share + 255 * (1 - share))
    return out


def as_rgb(bands: Image) -> Image:
    """The first three of ``(H, W, C)`` bands; a single one (or one with something beside it) as grey."""
    return bands[..., :3] if bands.shape[2] >= 3 else bands[..., [0, 0, 0]]


def strips(shape: tuple[int, ...]) -> Iterator[slice]:
    """The rows of an image, some at a time."""
    height, values_of_row = shape[0], max(1, math.prod(shape[1:]))
    step = max(1, _STRIP // values_of_row)
    return (slice(top, top + step) for top in range(0, height, step))


def _limits(sample: Values, dtype: np.dtype[Any], nodata: float | None) -> tuple[float, float]:
    """The values for black and white: percentiles; if they are one value, the extremes; if all is one value, its type's."""
    sample = sample[np.isfinite(sample) & (sample != nodata)]
    if len(sample) == 0:
        return 0.0, 1.0
    low, high = np.percentile(sample, PERCENTILES)
    if low == high:
        low, high = sample.min(), sample.max()
    if low == high:
        is_whole = np.issubdtype(dtype, np.integer)
        low, high = 0.0, float(np.iinfo(dtype).max) if is_whole else max(1.0, float(high))
    return float(low), float(high)


_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
LARGEST_PIECE = 256 << 20
"""A TIFF is read strip by strip; one of which a single strip takes more bytes is not."""
_NODATA_TAG = 42113
"""GDAL's tag for the value that means "nothing was measured here"."""
_ALPHA = (1, 2)
"""TIFF 6.0, ExtraSamples: associated and unassociated alpha."""


def is_tiff(body: bytes) -> bool:
    return body[:4] in _TIFF


def read_deep_tiff(body: bytes, most_pixels: int, wanted: Bands = ()) -> tuple[Image, int] | None:
    """The first page ``(H, W, 3)`` as stored, and its orientation (1..8); None when it is an ordinary 8-bit picture. The
    ``wanted`` bands are shown of one that has more than three.
    """
    with tifffile.TiffFile(io.BytesIO(body)) as file:
        page = file.pages.first
        check_pixels(page.imagewidth, page.imagelength, most_pixels)
        chosen = shown_bands(int(page.samplesperpixel), () if has_alpha(page) else wanted)
        if page.bitspersample <= 8 and page.samplesperpixel <= 4 and not chosen:
            return None
        bands = (chosen[:3] if len(chosen) > 2 else chosen[:1]) or tuple(range(_bands_shown(page)))
        piece = math.prod(int(side) for side in page.chunks) * (page.dtype.itemsize if page.dtype else 8)
        if piece > LARGEST_PIECE:
            raise ImageError(
                f"it is stored in pieces of more than {LARGEST_PIECE >> 20} MiB, of {page.samplesperpixel} bands; use strips"
            )
        with GATE.room_for(page.imagewidth * page.imagelength * 3 + 2 * piece):
            image = _shown(page, body, bands, is_colour=page.photometric == tifffile.PHOTOMETRIC.RGB and not chosen)
            if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and not chosen:
                np.subtract(255, image, out=image)
            return image, int(page.tags.valueof(274, 1))


def shown_bands(count: int, wanted: Bands) -> Bands:
    """The wanted bands of a file that has ``count`` of them; none where it has three at most. Raises ImageError where it lacks
    one.
    """
    if count <= 3 or not wanted:
        return ()
    if max(wanted) >= count:
        raise ImageError(f"it has {count} bands, and {BANDS_SETTING} wants number {max(wanted) + 1}")
    return wanted


def has_alpha(page: tifffile.TiffPage) -> bool:
    """Whether the fourth of four bands says what is transparent."""
    is_colour = page.photometric == tifffile.PHOTOMETRIC.RGB and page.samplesperpixel == 4
    return is_colour and bool(page.extrasamples) and page.extrasamples[0] in _ALPHA


def _bands_shown(page: tifffile.TiffPage) -> int:
    """How many of a page's bands are needed to show it: one, three, or four of which the last is alpha."""
    if has_alpha(page) and page.dtype is not None and page.dtype.kind == "u":
        return 4
    return 3 if page.samplesperpixel >= 3 else 1


def _shown(page: tifffile.TiffPage, body: bytes, bands: Bands, is_colour: bool) -> Image:
    """Some bands of a page as they are seen."""
    text = page.tags.valueof(_NODATA_TAG)
    nodata = float(text) if text else None
    size, dtype = Size(page.imagelength, page.imagewidth), np.dtype(page.dtype)
    nbytes = size.pixels * int(page.samplesperpixel) * dtype.itemsize
    try:
        return Stored(size, len(bands), dtype, nbytes, lambda: _pieces(page, bands), is_colour, nodata).shown()
    except ValueError as error:  # also said of a file that was cut short
        if "imagecodecs" not in str(error):
            raise
        if page.samplesperpixel > 4:
            raise ImageError(f"its compression needs a package more: {error}") from error
        return Stored.whole(read_with_opencv(body)[: len(bands)], is_colour, nodata).shown()


def _pieces(page: tifffile.TiffPage, bands: Bands) -> Iterator[Part]:
    """Some bands of a page, whose strips or tiles are decoded one at a time; those that are missing are its nodata."""
    is_apart = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.samplesperpixel > 1
    for piece, (plane, depth, top, left, _), shape in page.segments(maxworkers=1, buffersize=_READ_BYTES):
        if depth or (is_apart and plane not in bands):
            continue
        rows, columns = min(shape[1], page.imagelength - top), min(shape[2], page.imagewidth - left)
        missing = np.broadcast_to(np.asarray(page.nodata, page.dtype), (rows, columns, shape[3]))
        part = missing if piece is None else piece.reshape(-1, *piece.shape[-3:])[0][:rows, :columns]
        first, values = (bands.index(plane), [part[..., 0]]) if is_apart else (0, [part[..., band] for band in bands])
        yield slice(top, top + rows), slice(left, left + columns), first, values


def read_with_opencv(body: bytes | bytearray) -> list[Values]:
    """The bands ``(H, W)`` of an image with colours in the order RGB."""
    values: NDArray[np.generic] | None = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise ImageError("its compression or layout cannot be read")
    if values.ndim == 2:
        return [values]
    return [values[..., band] for band in (2, 1, 0, 3)[: values.shape[2]]]
