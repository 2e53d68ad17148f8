"""The bytes of an image file as RGB pixels: its format, its frame, its orientation, its colours."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from backend.images.deep import (
    GATE,
    Bands,
    as_rgb,
    is_deep_png,
    is_tiff,
    over_white,
    read_deep_png,
    read_deep_tiff,
    stretch_bands,
    strips,
)
from backend.images.limits import check_pixels
from backend.images.mending import Convert, ended_jpeg, orientation_of, plain_png, to_srgb
from backend.values.errors import ImageError
from prompts.kinds import Image

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM")
_FLIPS = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
"""How rows and columns run in an upright image of an EXIF orientation (Exif 2.32, tag 0x0112), of 5 to 8 after its axes were
swapped.
"""
_PILLOWS_LIMIT = threading.Lock()
PIXEL_BYTES = 7
"""What decoding takes for a pixel: four in Pillow, whatever the mode, three in the array."""


def decode_image(body: bytes, most_pixels: int, bands: Bands = ()) -> Image:
    """The first frame, upright, ``(H, W, 3)`` RGB over white; of a TIFF with more than three bands those of ``bands``. Raises
    ImageError when it is no whole image or too large.
    """
    if not body:
        raise ImageError("the file is empty")
    try:
        return np.ascontiguousarray(_decode(body, most_pixels, bands))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{_guess(body)}; images are read as {', '.join(FORMATS)}") from error
    except Exception as error:  # whatever a decoder trips over in a broken file
        raise ImageError(f"the file is broken or cut short and cannot be decoded: {error}") from error


def _decode(body: bytes, most_pixels: int, bands: Bands) -> Image:
    deep = read_deep_tiff(body, most_pixels, bands) if is_tiff(body) else None
    if deep:
        return _turned(*deep)
    body = plain_png(body)
    with opened(io.BytesIO(body)) as image:
        check_pixels(image.width, image.height, most_pixels)
        is_deep = is_deep_png(body)
        with GATE.room_for(image.width * image.height * (PIXEL_BYTES + 8 * is_deep)):
            image = _loaded(image, body)
            orientation = orientation_of(image)
            if is_deep:
                image.close()
            return _turned(read_deep_png(body) if is_deep else _to_rgb(image), orientation)


@contextmanager
def opened(file: io.BytesIO | Path) -> Iterator[Pillow.Image]:
    """The image with only its header read.

    Pillow's own limit belongs to the whole process and warns or raises there; ours takes its place for this one step.
    """
    with _PILLOWS_LIMIT:
        theirs, Pillow.MAX_IMAGE_PIXELS = Pillow.MAX_IMAGE_PIXELS, None
        try:
            image = Pillow.open(file, formats=FORMATS)
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
    for rows in strips((image.height, image.width, 4)):
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
