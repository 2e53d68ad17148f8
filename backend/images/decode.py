"""The bytes of an image file as RGB pixels: orientation, more than eight bits, more than three bands."""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from backend.images.limits import check_pixels
from backend.images.mending import Convert, ended_jpeg, orientation_of, plain_png, to_srgb
from backend.values.errors import ImageError
from prompts.kinds import Image

Values = NDArray[Any]

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


_GATE = DecodeGate(AT_ONCE_BYTES)


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
    for rows in _strips(rgb.shape):
        share = alpha[rows, :, None].astype(np.float32) / most
        out[rows] = np.rint(rgb[rows] * share + 255 * (1 - share))
    return out


def as_rgb(bands: Image) -> Image:
    """The first three of ``(H, W, C)`` bands; a single one (or one with something beside it) as grey."""
    return bands[..., :3] if bands.shape[2] >= 3 else bands[..., [0, 0, 0]]


def _strips(shape: tuple[int, ...]) -> Iterator[slice]:
    """The rows of an image, some at a time."""
    height, values_of_row = shape[0], max(1, math.prod(shape[1:]))
    step = max(1, _STRIP // values_of_row)
    return (slice(top, top + step) for top in range(0, height, step))


def _stretch(values: Values, nodata: float | None, out: Image) -> None:
    """Write values ``(H, W)`` or ``(H, W, C)`` between their percentiles into an array of their shape."""
    if not (np.issubdtype(values.dtype, np.integer) or np.issubdtype(values.dtype, np.floating)):
        raise ImageError(f"its values are of the type {values.dtype}, which has no brightness")
    low, high = _limits(values, nodata)
    for strip in _strips(values.shape):
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


def read_deep_tiff(body: bytes, most_pixels: int) -> tuple[Image, int] | None:
    """The first page ``(H, W, 3)`` as stored, and its orientation (1..8); None when it is an ordinary 8-bit picture."""
    with tifffile.TiffFile(io.BytesIO(body)) as file:
        page = file.pages.first
        check_pixels(page.imagewidth, page.imagelength, most_pixels)
        if page.bitspersample <= 8 and page.samplesperpixel <= 4:
            return None
        bands = _bands_shown(page)
        item = page.dtype.itemsize if page.dtype else 8
        if math.prod(int(side) for side in page.chunks) * item > LARGEST_PIECE:
            raise ImageError(
                f"it is stored in pieces of more than {LARGEST_PIECE >> 20} MiB, of {page.samplesperpixel} bands; use strips"
            )
        cost = page.imagewidth * page.imagelength * (bands * item + 3)
        with _GATE.room_for(cost):
            return _shown_page(page, _read_page(page, body, bands)), int(page.tags.valueof(274, 1))


def _bands_shown(page: tifffile.TiffPage) -> int:
    """How many of a page's bands are needed to show it: up to four, of which the last may be alpha, or the first three."""
    return int(page.samplesperpixel) if page.samplesperpixel <= 4 else 3


def _read_page(page: tifffile.TiffPage, body: bytes, bands: int) -> Values:
    """The values ``(H, W, C)`` of the first bands of a page."""
    try:
        return _read_pieces(page, bands)
    except ValueError as error:  # also said of a file that was cut short
        if "imagecodecs" not in str(error):
            raise
        if page.samplesperpixel > 4:
            raise ImageError(f"its compression needs a package more: {error}") from error
        return _read_with_opencv(body)


def _read_pieces(page: tifffile.TiffPage, bands: int) -> Values:
    """The first bands of a page, whose strips or tiles are decoded one at a time."""
    values = np.full((page.imagelength, page.imagewidth, bands), page.nodata, page.dtype)
    for piece, (plane, depth, top, left, _), shape in page.segments(maxworkers=1):
        if piece is None or depth or plane >= bands:
            continue
        rows, columns = min(shape[1], page.imagelength - top), min(shape[2], page.imagewidth - left)
        part = piece.reshape(-1, *piece.shape[-3:])[0][:rows, :columns]
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.samplesperpixel > 1:
            values[top : top + rows, left : left + columns, plane] = part[..., 0]
        else:
            values[top : top + rows, left : left + columns] = part[..., :bands]
    return values


def _shown_page(page: tifffile.TiffPage, values: Values) -> Image:
    text = page.tags.valueof(_NODATA_TAG)
    nodata = float(text) if text else None
    if page.photometric == tifffile.PHOTOMETRIC.RGB:
        has_alpha = values.shape[2] == 4 and bool(page.extrasamples) and page.extrasamples[0] in _ALPHA
        return _shown(values if has_alpha else values[..., :3], nodata)
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
    for rows in _strips(values.shape):
        values[rows, :, :3] = values[rows, :, 2::-1].copy()
    return values


FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM")
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".avif", ".avifs", ".gif", ".bmp", ".tif", ".tiff"}
    | {".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"}
)
"""The endings of files of these formats."""
_FLIPS = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
"""How rows and columns run in an upright image of an EXIF orientation (Exif 2.32, tag 0x0112), of 5 to 8 after its axes were
swapped.
"""
_PILLOWS_LIMIT = threading.Lock()
PIXEL_BYTES = 7
"""What decoding takes for a pixel: four in Pillow, whatever the mode, three in the array."""


def decode_image(body: bytes, most_pixels: int) -> Image:
    """The first frame, upright, ``(H, W, 3)`` RGB over white. Raises ImageError when it is no whole image or too large."""
    if not body:
        raise ImageError("the file is empty")
    try:
        return np.ascontiguousarray(_decode(body, most_pixels))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{_guess(body)}; images are read as {', '.join(FORMATS)}") from error
    except Exception as error:  # whatever a decoder trips over in a broken file
        raise ImageError(f"the file is broken or cut short and cannot be decoded: {error}") from error


def _decode(body: bytes, most_pixels: int) -> Image:
    deep = read_deep_tiff(body, most_pixels) if is_tiff(body) else None
    if deep:
        return _turned(*deep)
    body = plain_png(body)
    with _opened(body) as image:
        check_pixels(image.width, image.height, most_pixels)
        is_deep = is_deep_png(body)
        with _GATE.room_for(image.width * image.height * (PIXEL_BYTES + 8 * is_deep)):
            image = _loaded(image, body)
            orientation = orientation_of(image)
            if is_deep:
                image.close()
            return _turned(read_deep_png(body) if is_deep else _to_rgb(image), orientation)


@contextmanager
def _opened(body: bytes) -> Iterator[Pillow.Image]:
    """The image with only its header read.

    Pillow's own limit belongs to the whole process and warns or raises there; ours takes its place for this one step.
    """
    with _PILLOWS_LIMIT:
        theirs, Pillow.MAX_IMAGE_PIXELS = Pillow.MAX_IMAGE_PIXELS, None
        try:
            image = Pillow.open(io.BytesIO(body), formats=FORMATS)
        finally:
            Pillow.MAX_IMAGE_PIXELS = theirs
    with image:
        yield image


def _loaded(image: Pillow.Image, body: bytes) -> Pillow.Image:
    """The image with its pixels. Raises OSError when some are missing."""
    try:
        image.load()
    except OSError:
        mended = ended_jpeg(body) if image.format in ("JPEG", "MPO") else None
        if mended is None:
            raise
        return mended
    return image


def _to_rgb(image: Pillow.Image) -> Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return as_rgb(stretch_bands(np.asarray(image)[..., None]))
    in_srgb = to_srgb(image)
    if image.has_transparency_data:
        return _in_strips(image, lambda strip: _over_white(strip.convert("RGBA"), in_srgb))
    if image.mode == "RGB" and in_srgb is None:
        return np.asarray(image)
    return _in_strips(image, lambda strip: np.asarray(in_srgb(strip) if in_srgb else strip.convert("RGB")))


def _over_white(rgba: Pillow.Image, in_srgb: Convert | None) -> Image:
    rgb = rgba.convert("RGB")
    return over_white(np.asarray(in_srgb(rgb) if in_srgb else rgb), np.asarray(rgba.getchannel("A")))


def _in_strips(image: Pillow.Image, shown: Callable[[Pillow.Image], Image]) -> Image:
    """An image shown, some rows at a time."""
    out = np.empty((image.height, image.width, 3), np.uint8)
    for rows in _strips((image.height, image.width, 4)):
        out[rows] = shown(image.crop((0, rows.start, image.width, min(rows.stop, image.height))))
    return out


def _turned(rgb: Image, orientation: int) -> Image:
    """An image ``(H, W, 3)`` of an EXIF orientation, upright."""
    if orientation in (5, 6, 7, 8):
        rgb = rgb.swapaxes(0, 1)
    down, right = _FLIPS.get(orientation, (1, 1))
    return rgb[::down, ::right]


def _guess(body: bytes) -> str:
    """What a file is that is no image."""
    start = body[:512].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "it is a web page, not an image"
    if b"<svg" in start:
        return "it is an SVG drawing, which has no pixels"
    return "it is no image of a known format"
