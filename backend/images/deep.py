"""More than eight bits or three bands as RGB pixels: what is black and what is white, which bands are shown, and how many
images are decoded at once.
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from backend.images.limits import BANDS_SETTING, check_pixels
from backend.values.errors import ImageError
from prompts.kinds import Image

Values = NDArray[Any]
Bands = tuple[int, ...]
"""The bands that are shown of a file with more than three, counted from 0; none are the first three."""

PERCENTILES = (2.0, 98.0)
_SAMPLE = 1_000_000
_STRIP = 1_000_000
"""Values that are worked on at once: as float64 with a few intermediate results some 50 MB, however large the image."""
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


def stretch_bands(values: Values, nodata: float | None = None) -> Image:
    """Bands ``(H, W, C)`` as ``(H, W, C)`` uint8, each between its own percentiles."""
    stretched = np.empty(values.shape, np.uint8)
    for band in range(values.shape[2]):
        _stretch(values[..., band], nodata, stretched[..., band])
    return stretched


def stretch_together(values: Values, nodata: float | None = None) -> Image:
    """Bands ``(H, W, C)`` of one scale, such as 16-bit RGB, between common percentiles, so that colours stay."""
    stretched = np.empty(values.shape, np.uint8)
    _stretch(values, nodata, stretched)
    return stretched


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


def _stretch(values: Values, nodata: float | None, out: Image) -> None:
    """Write values ``(H, W)`` or ``(H, W, C)`` between their percentiles into an array of their shape."""
    if not (np.issubdtype(values.dtype, np.integer) or np.issubdtype(values.dtype, np.floating)):
        raise ImageError(f"its values are of the type {values.dtype}, which has no brightness")
    low, high = _limits(values, nodata)
    for strip in strips(values.shape):
        rows = values[strip].astype(np.float64)
        known = np.isfinite(rows) & (rows != nodata)
        shares = np.clip((np.where(known, rows, low) - low) / (high - low), 0, 1)
        out[strip] = np.rint(shares * 255)


def _limits(values: Values, nodata: float | None) -> tuple[float, float]:
    """The values for black and white: percentiles; if they are one value, the extremes; if all is one value, its type's."""
    every = max(1, values.size // _SAMPLE)
    sample = values.flat[::every].astype(np.float64)
    sample = sample[np.isfinite(sample) & (sample != nodata)]
    if len(sample) == 0:
        return 0.0, 1.0
    low, high = np.percentile(sample, PERCENTILES)
    if low == high:
        low, high = sample.min(), sample.max()
    if low == high:
        is_whole = np.issubdtype(values.dtype, np.integer)
        low, high = 0.0, float(np.iinfo(values.dtype).max) if is_whole else max(1.0, float(high))
    return float(low), float(high)


_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG = b"\x89PNG\r\n\x1a\n"
LARGEST_PIECE = 256 << 20
"""A TIFF is read strip by strip; one of which a single strip takes more bytes is not."""
_NODATA_TAG = 42113
"""GDAL's tag for the value that means "nothing was measured here"."""
_ALPHA = (1, 2)
"""TIFF 6.0, ExtraSamples: associated and unassociated alpha."""


def is_tiff(body: bytes) -> bool:
    return body[:4] in _TIFF


def is_deep_png(body: bytes) -> bool:
    """Whether it is a PNG of 16 bits per sample (PNG specification, IHDR)."""
    return body[:8] == _PNG and body[12:16] == b"IHDR" and body[24:25] == b"\x10"


def read_deep_png(body: bytes) -> Image:
    """``(H, W, 3)`` as stored, not turned; the caller has made sure that the file is whole."""
    return _shown(_read_with_opencv(body))


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
        bands = chosen or tuple(range(_bands_shown(page)))
        item = page.dtype.itemsize if page.dtype else 8
        if math.prod(int(side) for side in page.chunks) * item > LARGEST_PIECE:
            raise ImageError(
                f"it is stored in pieces of more than {LARGEST_PIECE >> 20} MiB, of {page.samplesperpixel} bands; use strips"
            )
        cost = page.imagewidth * page.imagelength * (len(bands) * item + 3)
        with GATE.room_for(cost):
            values, side = _read_page(page, body, bands), int(page.tags.valueof(274, 1))
            return (stretched(values, page) if chosen else _shown_page(page, values)), side


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


def stretched(values: Values, page: tifffile.TiffPage) -> Image:
    """Chosen bands ``(H, W, C)``, each between its own percentiles, or as they are where they have 8 bits."""
    return as_rgb(values if values.dtype == np.uint8 else stretch_bands(values, _nodata(page)))


def _nodata(page: tifffile.TiffPage) -> float | None:
    text = page.tags.valueof(_NODATA_TAG)
    return float(text) if text else None


def _bands_shown(page: tifffile.TiffPage) -> int:
    """How many of a page's bands are needed to show it: up to four, of which the last may be alpha, or the first three."""
    return int(page.samplesperpixel) if page.samplesperpixel <= 4 else 3


def _read_page(page: tifffile.TiffPage, body: bytes, bands: Bands) -> Values:
    """The values ``(H, W, C)`` of some bands of a page."""
    try:
        return _read_pieces(page, bands)
    except ValueError as error:  # also said of a file that was cut short
        if "imagecodecs" not in str(error):
            raise
        if page.samplesperpixel > 4:
            raise ImageError(f"its compression needs a package more: {error}") from error
        return _read_with_opencv(body)


def _read_pieces(page: tifffile.TiffPage, bands: Bands) -> Values:
    """Some bands of a page, whose strips or tiles are decoded one at a time."""
    values = np.full((page.imagelength, page.imagewidth, len(bands)), page.nodata, page.dtype)
    is_apart = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.samplesperpixel > 1
    for piece, (plane, depth, top, left, _), shape in page.segments(maxworkers=1):
        if piece is None or depth or (is_apart and plane not in bands):
            continue
        rows, columns = min(shape[1], page.imagelength - top), min(shape[2], page.imagewidth - left)
        part = piece.reshape(-1, *piece.shape[-3:])[0][:rows, :columns]
        if is_apart:
            values[top : top + rows, left : left + columns, bands.index(plane)] = part[..., 0]
        else:
            values[top : top + rows, left : left + columns] = part[..., list(bands)]
    return values


def _shown_page(page: tifffile.TiffPage, values: Values) -> Image:
    nodata = _nodata(page)
    if page.photometric == tifffile.PHOTOMETRIC.RGB:
        return _shown(values if has_alpha(page) else values[..., :3], nodata)
    shown = values if values.dtype == np.uint8 else stretch_bands(_first_bands(values), nodata)
    return as_rgb(255 - shown if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE else shown)


def _first_bands(values: Values) -> Values:
    return values[..., :3] if values.shape[2] >= 3 else values[..., :1]


def _shown(values: Values, nodata: float | None = None) -> Image:
    """Grey, RGB or RGB with alpha ``(H, W, 1 | 3 | 4)`` in one scale as ``(H, W, 3)`` uint8."""
    rgb = as_rgb(values if values.dtype == np.uint8 else stretch_together(_first_bands(values), nodata))
    has_alpha = values.shape[2] == 4 and np.issubdtype(values.dtype, np.unsignedinteger)
    return over_white(rgb, values[..., 3]) if has_alpha else rgb


def _read_with_opencv(body: bytes) -> Values:
    """The values ``(H, W, C)`` with colours in the order RGB."""
    values: NDArray[np.generic] | None = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise ImageError("its compression or layout cannot be read")
    if values.ndim == 2:
        return values[..., None]
    for rows in strips(values.shape):
        values[rows, :, :3] = values[rows, :, 2::-1].copy()
    return values
