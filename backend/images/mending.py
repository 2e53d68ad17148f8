"""Files as browsers show them: JPEGs without an end, PNGs with odd extras, colours by their profile, and which way is up."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import ExifTags, ImageCms
from PIL import Image as Pillow

Convert = Callable[[Pillow.Image], Pillow.Image]
PNG = b"\x89PNG\r\n\x1a\n"
_TURNED = ("JPEG", "MPO", "PNG", "AVIF")
LARGEST_PROFILE = 4 << 20
_SHOWN = (b"tRNS", b"eXIf", b"iCCP")
"""The extras of a PNG that change what is seen."""
_END = b"\xff\xd9"
_NOISE = bytes(range(1, 120)) * 8
"""Bytes that a decoder which still waits for pixels takes for some."""
_INTENT = ImageCms.Intent.PERCEPTUAL
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
LAST_BLOCK = 16
"""Rows of the last blocks of a JPEG at most, which may be incomplete."""


def plain_png(body: bytes) -> bytes:
    """A PNG without the chunks that nobody sees, such as texts, and without those whose checksum or content is wrong (PNG
    specification, 5.3: a decoder may leave out ancillary chunks); any other file as it is.
    """
    if not body.startswith(PNG):
        return body
    kept = [chunk for name, chunk in _chunks(body) if name[:1].isupper() or (name in _SHOWN and _is_sound(name, chunk))]
    return b"".join([PNG, *kept])


def _chunks(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The name of each chunk, and all of its bytes; the last one may be cut short."""
    at = len(PNG)
    while at + 8 <= len(body):
        (length,), name = struct.unpack(">I", body[at : at + 4]), body[at + 4 : at + 8]
        yield name, body[at : at + 12 + length]
        at += 12 + length


def _is_sound(name: bytes, chunk: bytes) -> bool:
    content, checksum = chunk[8:-4], chunk[-4:]
    if zlib.crc32(name + content).to_bytes(4, "big") != checksum:
        return False
    if name != b"iCCP":
        return True
    try:
        packed = content.partition(b"\0")[2][1:]
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
