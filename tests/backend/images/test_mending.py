"""Pictures that every browser shows are read: without an end marker, with damaged or huge extras, in other colour spaces."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from backend.images.decode import PNG, decode_image
from backend.values.errors import ImageError
from tests.backend.images.pictures import blocks, save

MOST = 10_000_000


def jpeg(**options: object) -> bytes:
    return save(Image.fromarray(np.tile(blocks(), (4, 4, 1))), "JPEG", quality=90, **options)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("cut", [2, 3])
def test_a_jpeg_without_its_end_marker_is_the_same_picture(progressive: bool, cut: int) -> None:
    whole = jpeg(progressive=progressive)
    assert np.abs(decode_image(whole[:-cut], MOST).astype(int) - decode_image(whole, MOST)).mean() < 1


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.7])
def test_a_jpeg_that_was_cut_short_is_still_refused(progressive: bool, share: float) -> None:
    whole = jpeg(progressive=progressive)
    with pytest.raises(ImageError, match="cut short"):
        decode_image(whole[: int(len(whole) * share)], MOST)


def chunk(name: bytes, content: bytes, checksum: int | None = None) -> bytes:
    found = zlib.crc32(name + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", found)


def with_extra(body: bytes, extra: bytes) -> bytes:
    """A PNG with a chunk after its header."""
    header = len(PNG) + 25
    return body[:header] + extra + body[header:]


EXTRAS = {
    "a text of 3 MB": chunk(b"tEXt", b"Comment\0" + b"a" * 3_000_000),
    "a packed text of 80 MB": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 80_000_000)),
    "a text with a wrong checksum": chunk(b"tEXt", b"Comment\0hello", 1),
    "a packed text that is broken": chunk(b"zTXt", b"Comment\0\0broken"),
    "an international text that is broken": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0broken"),
    "a profile that is broken": chunk(b"iCCP", b"icc\0\0broken"),
    "a profile of 80 MB": chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"a" * 80_000_000)),
    "a profile with a wrong checksum": chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"a"), 1),
    "EXIF that is broken": chunk(b"eXIf", b"II*\0broken"),
    "a time that is cut short": chunk(b"tIME", b"1"),
    "a resolution that is cut short": chunk(b"pHYs", b"1"),
    "a transparent colour that is cut short": chunk(b"tRNS", b"1"),
    "transparent colours of a palette that it lacks": chunk(b"tRNS", b"1" * 50),
    "a private chunk": chunk(b"prVt", b"x" * 1000),
}


@pytest.mark.parametrize("extra", EXTRAS)
def test_whatever_a_png_says_beside_its_pixels_they_are_read(extra: str) -> None:
    body = save(Image.fromarray(blocks()), "PNG")
    assert np.array_equal(decode_image(with_extra(body, EXTRAS[extra]), MOST), blocks())


def test_a_png_without_its_end_is_read_and_one_without_all_pixels_is_not() -> None:
    body = save(Image.fromarray(blocks()), "PNG")
    assert np.array_equal(decode_image(body[:-12], MOST), blocks())
    with pytest.raises(ImageError, match="cut short"):
        decode_image(body[: len(body) // 2], MOST)


def test_transparency_and_orientation_of_a_png_stay() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = np.dstack([blocks(), np.zeros(blocks().shape[:2], np.uint8)])
    assert (decode_image(save(Image.fromarray(clear), "PNG"), MOST) == 255).all()
    turned = decode_image(save(Image.fromarray(blocks()), "PNG", exif=exif.tobytes()), MOST)
    assert np.array_equal(turned, np.rot90(blocks(), -1))


def test_colours_are_shown_by_their_profile_as_lcms_converts_them() -> None:
    picture = Image.fromarray(blocks())
    grey = Image.fromarray(blocks()[..., 0])
    linear = _linear_grey()
    found = decode_image(save(grey, "PNG", icc_profile=linear), MOST)
    expected = ImageCms.profileToProfile(
        grey, ImageCms.ImageCmsProfile(io.BytesIO(linear)), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert expected is not None
    assert np.array_equal(found, np.asarray(expected))
    assert not np.array_equal(found[..., 0], np.asarray(grey)), "linear grey is not what is stored"
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(decode_image(save(picture, "PNG", icc_profile=srgb), MOST), blocks())


def test_a_profile_that_cannot_be_used_changes_nothing() -> None:
    for profile in (b"nonsense", b"\0" * 200, _linear_grey()):
        assert np.array_equal(decode_image(save(Image.fromarray(blocks()), "PNG", icc_profile=profile), MOST), blocks())


def _linear_grey() -> bytes:
    """A profile of grey whose values are in proportion to light (ICC.1:2022, 8.4: grayTRC of gamma 1)."""
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 7) + b"linear\0" + b"\0" * 79,
        b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061),
        b"kTRC": b"curv\0\0\0\0" + struct.pack(">I", 0),
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
    }
    table, data, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += b"\0" * (-len(content) % 4)
        table += name + struct.pack(">II", at + len(data), len(content))
        data += content
    size = at + len(data)
    header = struct.pack(">I4sI4s4s4s", size, b"\0\0\0\0", 0x02100000, b"mntr", b"GRAY", b"XYZ ") + b"\0" * 12 + b"acsp"
    header += b"\0" * 28 + struct.pack(">3i", 63190, 65536, 54061) + b"\0" * 48
    return header[:128].ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data
