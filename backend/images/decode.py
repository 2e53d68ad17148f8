"""The bytes of an image file as RGB pixels: orientation, more than eight bits, more than three bands."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import ExifTags, UnidentifiedImageError
from PIL import Image as Pillow

from backend.images.limits import check_pixels
from backend.values.errors import ImageError
from prompts.kinds import Image

Values = NDArray[Any]

PERCENTILES = (2.0, 98.0)
_SAMPLE = 1_000_000
_ROWS = 256


def stretch_bands(values: Values, nodata: float | None = None) -> Image:
    """Bands ``(H, W, C)`` as ``(H, W, C)`` uint8, each between its own percentiles."""
    return np.stack([_stretch(values[..., band], nodata) for band in range(values.shape[2])], axis=2)


def stretch_together(values: Values, nodata: float | None = None) -> Image:
    """Bands ``(H, W, C)`` of one scale, such as 16-bit RGB, between common percentiles, so that colours stay."""
    height, width, bands = values.shape
    return _stretch(values.reshape(height, width * bands), nodata).reshape(values.shape)


def over_white(rgb: Image, alpha: Values) -> Image:
    """``rgb (H, W, 3)`` on white where ``alpha (H, W)``, of an unsigned integer type, is transparent."""
    share = alpha[..., None].astype(np.float32) / np.iinfo(alpha.dtype).max
    return np.rint(rgb * share + 255 * (1 - share)).astype(np.uint8)


def as_rgb(bands: Image) -> Image:
    """The first three of ``(H, W, C)`` bands; a single one (or one with something beside it) as grey."""
    return bands[..., :3] if bands.shape[2] >= 3 else bands[..., [0, 0, 0]]


def _stretch(plane: Values, nodata: float | None) -> NDArray[np.uint8]:
    if not (np.issubdtype(plane.dtype, np.integer) or np.issubdtype(plane.dtype, np.floating)):
        raise ImageError(f"its values are of the type {plane.dtype}, which has no brightness")
    low, high = _limits(plane, nodata)
    stretched = np.empty(plane.shape, np.uint8)
    for top in range(0, len(plane), _ROWS):
        rows = plane[top : top + _ROWS].astype(np.float64)
        known = np.isfinite(rows) & (rows != nodata)
        shares = np.clip((np.where(known, rows, low) - low) / (high - low), 0, 1)
        stretched[top : top + _ROWS] = np.rint(shares * 255)
    return stretched


def _limits(plane: Values, nodata: float | None) -> tuple[float, float]:
    """The values for black and white: percentiles; if they are one value, the extremes; if all is one value, its type's."""
    every = max(1, plane.size // _SAMPLE)
    sample = plane.reshape(-1)[::every].astype(np.float64)
    sample = sample[np.isfinite(sample) & (sample != nodata)]
    if len(sample) == 0:
        return 0.0, 1.0
    low, high = np.percentile(sample, PERCENTILES)
    if low == high:
        low, high = sample.min(), sample.max()
    if low == high:
        low, high = 0.0, float(np.iinfo(plane.dtype).max) if np.issubdtype(plane.dtype, np.integer) else max(1.0, float(high))
    return float(low), float(high)


_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG = b"\x89PNG\r\n\x1a\n"
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
        if page.size > 16 * most_pixels:
            raise ImageError(f"it has {page.samplesperpixel} bands, too many for an image of its size")
        orientation = int(page.tags.valueof(274, 1))
        return _shown_page(page, _read_page(page, body)), orientation


def _read_page(page: tifffile.TiffPage, body: bytes) -> Values:
    """The values ``(H, W, C)`` of a page."""
    try:
        values = np.asarray(page.asarray())
    except ValueError as error:  # also said of a file that was cut short
        if "imagecodecs" not in str(error):
            raise
        if page.samplesperpixel > 4:
            raise ImageError(f"its compression needs a package more: {error}") from error
        return _read_with_opencv(body)
    axes = page.axes
    for extra in [axis for axis in axes if axis not in "YXS"]:
        values = values.take(0, axis=axes.index(extra))
        axes = axes.replace(extra, "", 1)
    return values[..., None] if "S" not in axes else np.moveaxis(values, axes.index("S"), -1)


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
    return np.concatenate([values[..., 2::-1], values[..., 3:]], axis=2)


FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM")
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".avif", ".avifs", ".gif", ".bmp", ".tif", ".tiff"}
    | {".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"}
)
"""The endings of files of these formats."""
_TURNED_BY_BROWSERS = ("JPEG", "MPO", "PNG", "AVIF")
_TURNS = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}
"""What makes an image of an EXIF orientation upright (Exif 2.32, tag 0x0112)."""
_PILLOWS_LIMIT = threading.Lock()


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
    with _opened(body) as image:
        check_pixels(image.width, image.height, most_pixels)
        image.load()
        rgb = read_deep_png(body) if is_deep_png(body) else _to_rgb(image)
        return _turned(rgb, _orientation(image))


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


def _to_rgb(image: Pillow.Image) -> Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return as_rgb(stretch_bands(np.asarray(image)[..., None]))
    if image.has_transparency_data:
        pixels = np.asarray(image.convert("RGBA"))
        return over_white(pixels[..., :3], pixels[..., 3])
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _turned(rgb: Image, orientation: int) -> Image:
    """An image ``(H, W, 3)`` of an EXIF orientation, upright."""
    turn = _TURNS.get(orientation)
    return rgb if turn is None else np.asarray(Pillow.fromarray(rgb).transpose(turn))


def _orientation(image: Pillow.Image) -> int:
    """The EXIF orientation (1..8) as browsers see it, because annotators draw on what the browser shows.

    Chromium 156 obeys it in JPEG, PNG and AVIF, not in WebP, and never the one in XMP. Pillow turns a TIFF by itself.
    """
    block = image.info.get("exif")
    if image.format not in _TURNED_BY_BROWSERS or not block:
        return 1
    exif = Pillow.Exif()
    try:
        exif.load(block)
        return int(exif.get(ExifTags.Base.Orientation, 1))
    except Exception:  # a broken block says nothing
        return 1


def _guess(body: bytes) -> str:
    """What a file is that is no image."""
    start = body[:512].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "it is a web page, not an image"
    if b"<svg" in start:
        return "it is an SVG drawing, which has no pixels"
    return "it is no image of a known format"
