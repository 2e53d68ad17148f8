"""Files that are no whole image of an allowed size."""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image

from backend.demo import filling
from backend.images.decode import decode_image
from backend.values.errors import ImageError
from tests.backend.images.pictures import MOST, noise, save


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and carries next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_file_that_was_cut_short_is_refused(kind: str, share: float) -> None:
    whole = save(Image.fromarray(noise(64, 64)), kind)
    with pytest.raises(ImageError, match=r"broken or cut short|no image of a known format"):
        decode_image(whole[: int(len(whole) * share)], MOST)


def test_a_progressive_photo_that_was_cut_short_is_refused() -> None:
    whole = save(Image.fromarray(noise(64, 64)), "JPEG", progressive=True)
    for share in (0.2, 0.5, 0.9):
        with pytest.raises(ImageError, match="broken or cut short"):
            decode_image(whole[: int(len(whole) * share)], MOST)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "file is empty"),
        (b"hello", "no image of a known format; images are read as JPEG"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"\xff\xd8\xff", "broken|no image"),
        (b"II*\0", "broken"),
        (b"II*\0\xff\xff\xff\x7f", "broken"),
        (b"%PDF-1.7", "no image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "no image"),
    ],
)
def test_what_is_no_image_is_refused_with_its_kind(body: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode_image(body, MOST)


@given(st.binary(max_size=200), st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"]), st.integers(0, 400))
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_is_an_image_or_an_image_error_and_nothing_else(damage: bytes, kind: str, place: int) -> None:
    body = bytearray(save(Image.fromarray(noise(9, 9)), kind))
    body[place : place + len(damage)] = damage
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = decode_image(bytes(body), MOST)
        except ImageError:
            return
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.dtype == np.uint8


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "deep TIFF"])
def test_a_bomb_is_refused_by_its_header(kind: str) -> None:
    """20000 x 20000 pixels would take 1.2 GB; the refusal must cost neither memory nor time."""
    bmp = save(Image.new("1", (8, 8)), "BMP")
    body = {
        "PNG": png_header(20_000, 20_000),
        "GIF": b"GIF89a"
        + struct.pack("<HH", 20_000, 20_000)
        + b"\0\0\0,"
        + struct.pack("<HHHH", 0, 0, 20_000, 20_000)
        + b"\0\2\0;",
        "BMP": bmp[:18] + struct.pack("<ii", 20_000, 20_000) + bmp[26:],
        "TIFF": tiff_header(20_000, 20_000, bits=8),
        "deep TIFF": tiff_header(20_000, 20_000, bits=16),
    }[kind]
    tracemalloc.start()
    with pytest.raises(
        ImageError, match="20000 x 20000 pixels, more than the limit of 64,000,000; raise MASKLOOM_MAX_IMAGE_MEGA"
    ):
        decode_image(body, 64_000_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


def tiff_header(width: int, height: int, bits: int) -> bytes:
    """A TIFF that announces a size and carries one byte."""
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, height),
    ]
    tags.append((279, 4, 1))
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_the_pixel_limit_is_ours_and_not_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow warns above its own limit and raises above twice that; an allowed image must do neither."""
    body = save(Image.fromarray(noise(40, 50)), "PNG")
    for pillows in (1500, 500):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows)
        assert decode_image(body, 2000).shape == (40, 50, 3)
        with pytest.raises(ImageError, match="50 x 40 pixels, more than the limit of 1,999"):
            decode_image(body, 1999)
        assert pillows == Image.MAX_IMAGE_PIXELS


def test_importing_the_decoder_changes_no_setting_of_pillow() -> None:
    script = (
        "import warnings; from PIL import Image, ImageFile; before = Image.MAX_IMAGE_PIXELS; import backend.images;"
        " assert before == Image.MAX_IMAGE_PIXELS and not ImageFile.LOAD_TRUNCATED_IMAGES;"
        " assert not any(filter[2] is Image.DecompressionBombWarning for filter in warnings.filters)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_threads_that_decode_at_once_leave_pillows_limit_alone() -> None:
    before = Image.MAX_IMAGE_PIXELS
    body = save(Image.fromarray(noise(8, 8)), "PNG")
    pool = [threading.Thread(target=lambda: [decode_image(body, MOST) for _ in range(50)]) for _ in range(8)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_format_that_is_not_read_starts_no_decoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An EPS file is a program, for which Pillow starts Ghostscript: neither as a task's image nor as a photo of a demo."""
    started: list[str] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: started.append("gs"))
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(ImageError, match="no image of a known format"):
        decode_image(photo.read_bytes(), MOST)
    with pytest.raises(ImageError, match="cannot be read"):
        filling.check(photo)
    assert not started
