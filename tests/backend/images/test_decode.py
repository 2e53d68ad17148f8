"""Ordinary image files: upright, in RGB, over white, the first frame."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from backend.images.decode import FORMATS, decode_image
from backend.images.limits import SUFFIXES
from tests.backend.images.pictures import MOST, Pixels, blocks, noise, save

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


def test_the_endings_of_files_are_those_of_the_formats_that_are_read() -> None:
    Image.init()
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    assert known == SUFFIXES
