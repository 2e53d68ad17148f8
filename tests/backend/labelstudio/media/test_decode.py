from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from backend.errors import ImageError
from backend.labelstudio.media.decode import decode_image

MOST = 1_000_000
Pixels = NDArray[np.uint8]


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(height: int, width: int, bands: int = 3, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, bands), np.uint8)


def blocks() -> Pixels:
    """A picture ``(48, 80, 3)`` of six even blocks, which lossy formats keep almost as they are."""
    colours = np.array([[[230, 30, 30], [30, 200, 30], [30, 30, 230]], [[240, 240, 20], [20, 20, 20], [200, 200, 200]]])
    return np.pad(colours.repeat(24, axis=0).repeat(26, axis=1), ((0, 0), (0, 2), (0, 0)), "edge").astype(np.uint8)


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and carries next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored.swapaxes(0, 1)[:, ::-1],
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: stored.swapaxes(0, 1)[::-1],
}
"""Exif 2.32, tag 0x0112: which sides of the scene the stored rows and columns begin at."""


def oriented(pixels: Pixels, kind: str, orientation: int, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(Image.fromarray(pixels), kind, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@given(height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_every_orientation_becomes_upright(orientation: int, height: int, width: int, seed: int) -> None:
    stored = noise(height, width, seed=seed)
    image = decode_image(oriented(stored, "PNG", orientation), MOST)
    assert np.array_equal(image, UPRIGHT[orientation](stored))
    assert image.flags.c_contiguous


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "AVIF"])
def test_every_orientation_of_a_photo_becomes_upright(kind: str, orientation: int) -> None:
    stored = blocks()
    image = decode_image(oriented(stored, kind, orientation, quality=95), MOST)
    truth = UPRIGHT[orientation](stored)
    assert image.shape == truth.shape
    assert np.abs(image.astype(int) - truth).mean() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("type_", [np.uint8, np.uint16])
def test_every_orientation_of_a_tiff_becomes_upright(type_: type, orientation: int) -> None:
    stored = noise(5, 7)
    file = io.BytesIO()
    extra = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(
        file, stored.astype(type_) * np.array(np.iinfo(type_).max // 255, type_), photometric="rgb", extratags=extra
    )
    image = decode_image(file.getvalue(), MOST)
    truth = UPRIGHT[orientation](stored)
    assert image.shape == truth.shape
    assert np.abs(image.astype(int) - truth).max() < 12, "the stretch from 2 to 98 per cent moves values a little"


def test_what_browsers_do_not_turn_stays_as_it_is_stored() -> None:
    """Annotators draw on what the browser shows. Chromium 156 turns no WebP, and nothing by the orientation in XMP."""
    stored = blocks()
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description xmlns:tiff="t" tiff:Orientation="6"/></x:xmpmeta>'
    assert decode_image(oriented(stored, "WEBP", 6), MOST).shape == stored.shape
    assert decode_image(save(Image.fromarray(stored), "JPEG", xmp=xmp), MOST).shape == stored.shape


@pytest.mark.parametrize("block", [b"Exif\0\0", b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\0"])
def test_a_broken_exif_block_costs_nothing_but_the_orientation(block: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert decode_image(save(Image.fromarray(blocks()), "JPEG", exif=block), MOST).shape == (48, 80, 3)


def test_an_orientation_that_does_not_exist_is_ignored() -> None:
    assert decode_image(oriented(noise(2, 3), "PNG", 9), MOST).shape == (2, 3, 3)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_exact_formats_give_back_every_pixel(kind: str) -> None:
    pixels = noise(6, 5)
    assert np.array_equal(decode_image(save(Image.fromarray(pixels), kind), MOST), pixels)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "JPEG2000"])
def test_photo_formats_give_back_the_picture(kind: str) -> None:
    image = decode_image(save(Image.fromarray(blocks()), kind), MOST)
    assert np.abs(image.astype(int) - blocks()).mean() < 6


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "AVIF", "PPM"])
@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_an_image_of_one_pixel_works(mode: str, kind: str) -> None:
    image = decode_image(save(Image.new(mode, (1, 1), "white"), kind), MOST)
    assert image.shape == (1, 1, 3)
    assert image.min() >= 250


def test_grey_becomes_three_equal_channels() -> None:
    grey = noise(4, 6, 1)
    assert np.array_equal(decode_image(save(Image.fromarray(grey[..., 0]), "PNG"), MOST), grey.repeat(3, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
def test_one_bit_becomes_black_and_white(kind: str) -> None:
    bits = noise(9, 13, 1)[..., 0] > 127
    image = decode_image(save(Image.fromarray(bits), kind), MOST)
    assert np.array_equal(image, (bits[..., None] * np.uint8(255)).repeat(3, axis=2))


def test_a_palette_is_looked_up() -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    expected = [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 255, 0]]]
    for kind in ("PNG", "GIF", "TIFF"):
        assert decode_image(save(image, kind), MOST).tolist() == expected


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_transparency_lies_over_white(mode: str, kind: str) -> None:
    pixels = noise(8, 9, len(mode))
    alpha = pixels[..., -1:] / 255
    truth = np.broadcast_to(pixels[..., :-1] * alpha + 255 * (1 - alpha), (8, 9, 3))
    image = decode_image(save(Image.fromarray(pixels, mode), kind), MOST)
    assert np.abs(image - truth).max() <= 0.51


def test_a_transparent_colour_lies_over_white() -> None:
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 255, 0])
    for kind in ("PNG", "GIF"):
        assert decode_image(save(palette, kind, transparency=0), MOST).tolist() == [[[255, 255, 255], [0, 255, 0]]]
    assert decode_image(save(palette, "PNG", transparency=bytes([255, 0])), MOST).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    grey = Image.fromarray(np.array([[10, 20]], np.uint8))
    assert decode_image(save(grey, "PNG", transparency=10), MOST).tolist() == [[[255] * 3, [20] * 3]]
    rgb = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert decode_image(save(rgb, "PNG", transparency=(1, 2, 3)), MOST).tolist() == [[[255] * 3, [4, 5, 6]]]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(kind: str) -> None:
    inks = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    cyan = decode_image(save(inks, kind), MOST)
    assert np.abs(cyan.astype(int) - (0, 255, 255)).max() < 8


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    image = decode_image(save(frames[0], kind, save_all=True, append_images=frames[1:]), MOST)
    assert image.shape == (16, 16, 3)
    assert np.abs(image.astype(int) - (255, 0, 0)).max() < 8


def test_a_camera_file_of_several_pictures_is_read_as_its_first() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    image = decode_image(save(frames[0], "MPO", save_all=True, append_images=frames[1:]), MOST)
    assert np.abs(image.astype(int) - (255, 0, 0)).max() < 8


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
        "import warnings; from PIL import Image, ImageFile; before = Image.MAX_IMAGE_PIXELS; import backend.labelstudio.media;"
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


def stretched(values: NDArray[Any], low: float, high: float) -> NDArray[np.float64]:
    return np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 255


def deep_png(values: NDArray[np.uint16]) -> bytes:
    """OpenCV writes 16-bit PNG; colours go in as BGR(A)."""
    swapped = values if values.ndim == 2 else np.concatenate([values[..., 2::-1], values[..., 3:]], axis=2)
    done, body = cv2.imencode(".png", swapped)
    assert done
    return body.tobytes()


def test_sixteen_bit_grey_is_stretched_between_its_2nd_and_98th_percentile() -> None:
    values = np.random.default_rng(2).normal(3000, 200, (50, 60)).clip(0).astype(np.uint16)
    truth = stretched(values, *np.percentile(values, (2, 98)))
    for body in (
        deep_png(values),
        save(Image.fromarray(values), "TIFF"),
        save(Image.fromarray(values), "TIFF", compression="tiff_lzw"),
    ):
        image = decode_image(body, MOST)
        assert np.abs(image - truth[..., None]).max() <= 0.51


def test_sixteen_bit_colour_is_stretched_as_one_so_that_colours_stay() -> None:
    values = np.random.default_rng(3).integers(0, 4096, (40, 50, 3)).astype(np.uint16) * np.array([4, 2, 1], np.uint16)
    truth = stretched(values, *np.percentile(values, (2, 98)))
    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric="rgb")
    for body in (deep_png(values), file.getvalue()):
        assert np.abs(decode_image(body, MOST) - truth).max() <= 0.51


def test_sixteen_bit_transparency_lies_over_white() -> None:
    values = np.zeros((10, 10, 4), np.uint16)
    values[..., :3] = np.linspace(0, 65535, 100).reshape(10, 10, 1)
    values[5:, :, 3] = 65535
    image = decode_image(deep_png(values), MOST)
    assert (image[:5] == 255).all()
    assert np.abs(image[5:] - stretched(values[5:, :, :3], *np.percentile(values[..., :3], (2, 98)))).max() <= 0.51


def test_the_bands_of_a_satellite_image_are_stretched_one_by_one_and_the_first_three_shown() -> None:
    values = (np.random.default_rng(4).random((6, 40, 50)) * np.array([100, 1000, 60000, 9, 9, 9])[:, None, None]).astype(
        np.uint16
    )
    low, high = np.percentile(values[:3], (2, 98), axis=(1, 2))
    truth = np.stack([stretched(values[k], low[k], high[k]) for k in range(3)], axis=2)
    for planar, layout in ((values, "separate"), (np.moveaxis(values, 0, 2), "contig")):
        file = io.BytesIO()
        tifffile.imwrite(file, np.ascontiguousarray(planar), photometric="minisblack", planarconfig=layout)
        assert np.abs(decode_image(file.getvalue(), MOST) - truth).max() <= 0.51, layout


def test_more_than_four_bands_of_eight_bits_are_shown_as_they_are() -> None:
    values = noise(20, 30, 7)
    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric="minisblack", planarconfig="contig")
    assert np.array_equal(decode_image(file.getvalue(), MOST), values[..., :3])


@pytest.mark.parametrize("compression", ["zlib", None])
@pytest.mark.parametrize("type_", [np.float32, np.float64, np.int16, np.int32, np.uint32])
def test_other_types_of_values_are_stretched(type_: type, compression: str | None) -> None:
    values = np.random.default_rng(6).normal(0, 500, (30, 40)).astype(type_)
    file = io.BytesIO()
    tifffile.imwrite(file, values, compression=compression)
    truth = stretched(values, *np.percentile(values.astype(np.float64), (2, 98)))
    assert np.abs(decode_image(file.getvalue(), MOST) - truth[..., None]).max() <= 0.51


def test_gaps_and_the_value_for_no_data_do_not_count() -> None:
    values = np.random.default_rng(7).normal(100, 10, (40, 40)).astype(np.float32)
    seen = values[:, 20:]
    truth = stretched(seen, *np.percentile(seen.astype(np.float64), (2, 98)))
    for gap, tags in ((np.nan, []), (np.inf, []), (-9999, [(42113, "s", 0, "-9999", True)])):
        values[:, :20] = gap
        file = io.BytesIO()
        tifffile.imwrite(file, values, extratags=tags)
        image = decode_image(file.getvalue(), MOST)
        assert np.abs(image[:, 20:] - truth[..., None]).max() <= 0.51, gap
        assert (image[:, :20] == 0).all(), gap


def test_a_small_thing_on_an_even_ground_stays_visible() -> None:
    values = np.zeros((100, 100), np.uint16)
    values[50, 50] = 900
    image = decode_image(deep_png(values), MOST)
    assert image[50, 50].tolist() == [255] * 3
    assert image.sum() == 255 * 3


@pytest.mark.parametrize(("value", "shown"), [(0, 0), (65535, 255), (32896, 128)])
def test_one_even_value_keeps_its_place_between_black_and_white(value: int, shown: int) -> None:
    for side in (1, 5):
        image = decode_image(deep_png(np.full((side, side), value, np.uint16)), MOST)
        assert (image == shown).all()
        assert image.shape == (side, side, 3)


def test_white_is_zero_is_turned_round() -> None:
    values = np.arange(10_000, dtype=np.uint16).reshape(100, 100)
    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric="miniswhite")
    image = decode_image(file.getvalue(), MOST)
    assert image[0, 0, 0] == 255
    assert image[-1, -1, 0] == 0


def test_a_stack_is_read_as_its_first_page() -> None:
    values = np.random.default_rng(8).integers(0, 60000, (4, 20, 30)).astype(np.uint16)
    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric="minisblack")
    truth = stretched(values[0], *np.percentile(values[0], (2, 98)))
    assert np.abs(decode_image(file.getvalue(), MOST) - truth[..., None]).max() <= 0.51


def test_complex_values_have_no_brightness() -> None:
    file = io.BytesIO()
    tifffile.imwrite(file, np.ones((4, 4), np.complex64))
    with pytest.raises(ImageError, match="no brightness"):
        decode_image(file.getvalue(), MOST)


def test_a_deep_file_that_was_cut_short_is_refused() -> None:
    values = np.random.default_rng(9).integers(0, 65535, (64, 64, 3)).astype(np.uint16)
    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric="rgb")
    for whole in (deep_png(values), file.getvalue()):
        for share in (0.4, 0.9):
            with pytest.raises(ImageError, match="broken or cut short"):
                decode_image(whole[: int(len(whole) * share)], MOST)
