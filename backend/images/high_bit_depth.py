"""How files with more than 8 bits or many bands are read: what Pillow would cut to 8 bits, or cannot open at all."""

from __future__ import annotations

import io

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from backend.images.contrast import Values, as_rgb, over_white, stretch_bands, stretch_together
from backend.images.limits import check_pixels
from backend.values.errors import ImageError
from prompts.kinds import Image

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
