"""The bytes of an image file as RGB pixels, as browsers show them: its format, its frame, JPEGs without an end, PNGs with odd
extras, colours by their profile, and which way is up."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, ImageCms, UnidentifiedImageError
from PIL import Image as Pillow

from backend.images.deep import (
    GATE,
    Bands,
    Part,
    Stored,
    Values,
    is_tiff,
    over_white,
    read_deep_tiff,
    read_with_opencv,
    stretch_bands,
    strips,
)
from backend.images.limits import check_pixels
from backend.values.errors import ImageError
from prompts.geometry import Size
from prompts.kinds import Image

Convert = Callable[[Pillow.Image], Pillow.Image]
PNG = b"\x89PNG\r\n\x1a\n"
_SAMPLES = {0: (0,), 2: (0, 1, 2), 4: (0, 3), 6: (0, 1, 2, 3)}
"""Which bands of those that OpenCV gives are stored with each colour type (PNG specification, 11.2.1)."""
_WHOLE = ((0, 0, 1, 1),)
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""The first column and row of each pass of an interlaced file, and its steps across and down (PNG specification, 8.2)."""
_STRIP_BYTES = 4 << 20
_PIECE = 1 << 16
_TURNED = ("JPEG", "MPO", "PNG", "AVIF")
LARGEST_PROFILE = 4 << 20
_SHOWN = (b"tRNS", b"eXIf", b"iCCP")
"""The extras of a PNG that change what is seen."""
_CLEAR = {0: range(2, 3), 2: range(6, 7), 3: range(1, 257)}
"""How many bytes tRNS has with each colour type of a PNG that may have one (PNG specification, 11.3.2.1)."""
_END = b"\xff\xd9"
_NOISE = bytes(range(1, 120)) * 8
"""Bytes that a decoder which still waits for pixels takes for some."""
_INTENT = ImageCms.Intent.PERCEPTUAL
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
LAST_BLOCK = 16
"""Rows of the last blocks of a JPEG at most, which may be incomplete."""
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM")
_FLIPS = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
"""How rows and columns run in an upright image of an EXIF orientation (Exif 2.32, tag 0x0112), of 5 to 8 after its axes were
swapped.
"""
_PILLOWS_LIMIT = threading.Lock()
PIXEL_BYTES = 7
"""What decoding takes for a pixel: four in Pillow, whatever the mode, three in the array."""
PIXEL_BYTES_OF = {"JPEG": 12, "MPO": 12, "AVIF": 10, "JPEG2000": 25}
"""The same of formats whose decoders hold more than that: measured on 64 megapixels."""


def plain_png(body: bytes) -> bytes:
    """A PNG without the chunks that nobody sees, such as texts, and without those whose checksum or content is wrong (PNG
    specification, 5.3: a decoder may leave out ancillary chunks), its orientation before its pixels; any other file as it is.
    """
    if not body.startswith(PNG) or len(body) < 33:
        return body
    clear = _CLEAR.get(body[25], range(0))
    chunks = [each for each in _chunks(body) if each[0][:1].isupper() or (each[0] in _SHOWN and _is_sound(*each, clear))]
    first = [chunk for name, chunk in chunks if name in (b"IHDR", b"eXIf")]
    return b"".join([PNG, *first, *(chunk for name, chunk in chunks if name not in (b"IHDR", b"eXIf"))])


def _chunks(body: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """The name of each chunk, and all of its bytes; the last one may be cut short."""
    at, view = len(PNG), memoryview(body)
    while at + 8 <= len(body):
        (length,), name = struct.unpack(">I", body[at : at + 4]), body[at + 4 : at + 8]
        yield name, view[at : at + 12 + length]
        at += 12 + length


def _is_sound(name: bytes, chunk: memoryview, clear: range) -> bool:
    content, checksum = chunk[8:-4], chunk[-4:]
    if zlib.crc32(name + content).to_bytes(4, "big") != checksum:
        return False
    if name == b"tRNS":
        return len(content) in clear
    if name != b"iCCP":
        return True
    try:
        packed = bytes(content).partition(b"\0")[2][1:]
        reader = zlib.decompressobj()
        reader.decompress(packed, LARGEST_PROFILE)
    except zlib.error:
        return False
    return reader.eof


def ended_jpeg(body: bytes) -> Pillow.Image | None:
    """The picture of a JPEG whose end marker is missing, decoded; None when more than that is missing.

    A decoder that has all its pixels reads nothing more: what is put before the end marker then changes nothing. Of one that
    waits for pixels the picture changes, from where they are missing on; in the last blocks a few may be.
    """
    picture, other = _decoded(body + _END), _decoded(body + _NOISE + _END)
    if picture is None or other is None:
        return None
    last = max(0, picture.height - LAST_BLOCK)
    for top in range(0, last, 256):
        box = (0, top, picture.width, min(top + 256, last))
        if not np.array_equal(np.asarray(picture.crop(box)), np.asarray(other.crop(box))):
            return None
    return picture


def _decoded(body: bytes) -> Pillow.Image | None:
    try:
        picture = Pillow.open(io.BytesIO(body), formats=("JPEG",))
        picture.load()
    except (OSError, ValueError, SyntaxError):
        return None
    return picture


def to_srgb(image: Pillow.Image) -> Convert | None:
    """How the colours of an image become those of sRGB (IEC 61966-2-1), in which browsers show it; None when it has no profile,
    one that cannot be used, or sRGB itself. Images with palettes and transparency are to be made RGB before.
    """
    found = image.info.get("icc_profile")
    mode = image.mode if image.mode in ("L", "CMYK") and not image.has_transparency_data else "RGB"
    if not found:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(found))
        if "srgb" in ImageCms.getProfileDescription(profile).lower():
            return None
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB", _INTENT, _FLAGS)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None

    def convert(part: Pillow.Image) -> Pillow.Image:
        done = ImageCms.applyTransform(part if part.mode == mode else part.convert(mode), transform)
        assert done is not None
        return done

    return convert


def orientation_of(image: Pillow.Image) -> int:
    """The EXIF orientation (1..8) as browsers see it, because annotators draw on what the browser shows.

    Chromium 156 obeys it in JPEG, PNG and AVIF, not in WebP, and never the one in XMP. Pillow turns a TIFF by itself.
    """
    block = image.info.get("exif")
    if image.format not in _TURNED or not block:
        return 1
    exif = Pillow.Exif()
    try:
        exif.load(block)
        return int(exif.get(ExifTags.Base.Orientation, 1))
    except Exception:  # a broken block says nothing
        return 1


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
        if _is_deep_png(body):
            with GATE.room_for(image.width * image.height * 3):
                return _turned(_read_deep_png(body), orientation_of(image))
        with GATE.room_for(image.width * image.height * PIXEL_BYTES_OF.get(image.format or "", PIXEL_BYTES)):
            if image.format == "WEBP" and (stored := _webp_bands(body)):
                return _in_strips(image, lambda rows: Pillow.fromarray(np.dstack([band[rows] for band in stored])))
            image = _loaded(image, body)
            return _turned(_to_rgb(image), orientation_of(image))


def _webp_bands(body: bytes) -> list[Image]:
    """The first frame of a WebP by OpenCV, which holds it once where Pillow holds it four times; none where it cannot."""
    try:
        return read_with_opencv(body)
    except (ImageError, cv2.error):
        return []


def _is_deep_png(body: bytes) -> bool:
    """Whether it is a PNG of 16 bits per sample (PNG specification, IHDR)."""
    return body[:8] == PNG and body[12:16] == b"IHDR" and body[24:25] == b"\x10"


def _read_deep_png(body: bytes) -> Image:
    """``(H, W, 3)`` of a PNG of 16 bits, not turned. Raises OSError or zlib.error for a file that is not whole."""
    width, height, _, kind = struct.unpack(">IIBB", body[16:26])
    clear = b"".join(chunk for name, chunk in _chunks(body) if name == b"tRNS" and kind == 2)
    bands = 1 if kind == 0 else 3 + (kind > 2 or bool(clear))
    nbytes = width * height * 2 * bands
    return Stored(Size(height, width), bands, np.dtype(np.uint16), nbytes, lambda: _parts(body, clear), is_colour=True).shown()


def _parts(body: bytes, clear: bytes) -> Iterator[Part]:
    """Its rows, some at a time, as a PNG of their own whose first row is the one above them, which they build on: OpenCV, which
    alone reads 16 bits, would hold the picture twice.
    """
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", body[16:29])
    file = _Inflated(body)
    for x, y, across, down in _PASSES if interlaced else _WHOLE:
        columns, rows = -(-(width - x) // across), -(-(height - y) // down)
        row_bytes = 1 + 2 * len(_SAMPLES[kind]) * columns
        above = bytes(row_bytes)
        step = max(1, _STRIP_BYTES // row_bytes)
        for top in range(0, rows if columns > 0 else 0, step):
            count = min(step, rows - top)
            head = struct.pack(">IIBBBBB", columns, count + 1, depth, kind, 0, 0, 0)
            pixels = zlib.compress(above + file.read(count * row_bytes), 0)
            strip = [PNG, _chunk(b"IHDR", head), clear, _chunk(b"IDAT", pixels), _chunk(b"IEND", b"")]
            bands = read_with_opencv(b"".join(strip))
            above = _unfiltered([bands[band][-1] for band in _SAMPLES[kind]])
            there = slice(y + top * down, y + (top + count - 1) * down + 1, down)
            yield there, slice(x, None, across), 0, [band[1:] for band in bands]


def _unfiltered(bands: list[Values]) -> bytes:
    """A row as it is stored without a filter."""
    return b"\0" + np.stack(bands, axis=-1).astype(">u2").tobytes()


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


class _Inflated:
    """The rows of a PNG as they are stored, unpacked as they are read."""

    def __init__(self, body: bytes) -> None:
        packed = (chunk[8:-4] for name, chunk in _chunks(body) if name == b"IDAT")
        self._pieces = (chunk[at : at + _PIECE] for chunk in packed for at in range(0, len(chunk), _PIECE))
        self._reader = zlib.decompressobj()

    def read(self, count: int) -> bytes:
        """So many bytes. Raises OSError where there are fewer."""
        found = bytearray()
        while len(found) < count:
            packed = self._reader.unconsumed_tail or next(self._pieces, b"")
            unpacked = self._reader.decompress(packed, count - len(found))
            if not packed and not unpacked:
                raise OSError("its pixels are cut short")
            found += unpacked
        return bytes(found)


@contextmanager
def opened(file: io.BytesIO | Path) -> Iterator[Pillow.Image]:
    """The image with only its header read."""
    with _beyond_pillows_limit(lambda: Pillow.open(file, formats=FORMATS)) as image:
        yield image


def _beyond_pillows_limit(step: Callable[[], Pillow.Image]) -> Pillow.Image:
    """What one step gives. Pillow's own limit belongs to the whole process and warns or raises there; ours takes its place."""
    with _PILLOWS_LIMIT:
        theirs, Pillow.MAX_IMAGE_PIXELS = Pillow.MAX_IMAGE_PIXELS, None
        try:
            return step()
        finally:
            Pillow.MAX_IMAGE_PIXELS = theirs


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
        return stretch_bands(np.asarray(image))
    width, height = image.size
    return _in_strips(image, lambda s: _beyond_pillows_limit(lambda: image.crop((0, s.start, width, min(s.stop, height)))))


def _in_strips(image: Pillow.Image, cut: Callable[[slice], Pillow.Image]) -> Image:
    """The colours of an image over white, some rows at a time, which ``cut`` gives."""
    out, in_srgb = np.empty((image.height, image.width, 3), np.uint8), to_srgb(image)
    for rows in strips((image.height, image.width, 4)):
        strip = cut(rows)
        if strip.has_transparency_data:
            out[rows] = _over_white(strip.convert("RGBA"), in_srgb)
        else:
            out[rows] = np.asarray(in_srgb(strip) if in_srgb else strip.convert("RGB"))
    return out


def _over_white(rgba: Pillow.Image, in_srgb: Convert | None) -> Image:
    rgb = rgba.convert("RGB")
    return over_white(np.asarray(in_srgb(rgb) if in_srgb else rgb), np.asarray(rgba.getchannel("A")))


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
