"""How the bytes of an image file become an upright RGB array; a file is judged by its header before it is decoded."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, UnidentifiedImageError
from PIL import Image as Pillow

from backend.images.contrast import as_rgb, over_white, stretch_bands
from backend.images.high_bit_depth import is_deep_png, is_tiff, read_deep_png, read_deep_tiff
from backend.images.limits import check_pixels
from backend.values.errors import ImageError
from prompts.kinds import Image

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM")
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
