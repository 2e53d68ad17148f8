"""Files with more than 8 bits or many bands; every truth is computed with NumPy."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from backend.images import decode, deep
from backend.images.decode import PNG, decode_image
from backend.values.errors import ImageError
from tests.backend.images.pictures import MOST, noise, save


def stretched(values: NDArray[Any], low: float, high: float) -> NDArray[np.float64]:
    return np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 255


PNG_FILTERS = (cv2.IMWRITE_PNG_FILTER_SUB, cv2.IMWRITE_PNG_FILTER_UP, cv2.IMWRITE_PNG_FILTER_AVG, cv2.IMWRITE_PNG_FILTER_PAETH)


def deep_png(values: NDArray[np.uint16], row_filter: int = cv2.IMWRITE_PNG_ALL_FILTERS) -> bytes:
    """OpenCV writes 16-bit PNG; colours go in as BGR(A)."""
    swapped = values if values.ndim == 2 else np.concatenate([values[..., 2::-1], values[..., 3:]], axis=2)
    done, body = cv2.imencode(".png", swapped, [cv2.IMWRITE_PNG_FILTER, row_filter])
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


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_a_deep_picture_read_strip_by_strip_is_the_same_whatever_filters_its_rows_have(
    bands: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(12)
    values = np.cumsum(rng.integers(0, 300, (90, 70, bands)), axis=0).astype(np.uint16)
    values = values[..., 0] if bands == 1 else values
    filters = {deep_png(values, each) for each in PNG_FILTERS}
    assert len(filters) > 1
    truth = stretched(values.reshape(90, 70, bands)[..., :3], *np.percentile(values.reshape(90, 70, bands)[..., :3], (2, 98)))
    if bands == 4:
        opaque = values[..., 3:] / 65535
        truth = truth * opaque + 255 * (1 - opaque)
    monkeypatch.setattr(deep, "_KEPT_BYTES", 0)
    for strip in (1, 70 * 2 * 4 * 7, 1 << 22):
        monkeypatch.setattr(decode, "_STRIP_BYTES", strip)
        for body in filters:
            assert np.abs(decode_image(body, MOST) - truth).max() <= 1.01, strip


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 7), (37, 41)])
@pytest.mark.parametrize(("kind", "samples"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_an_interlaced_deep_picture_is_the_same_as_a_plain_one(kind: int, samples: int, size: tuple[int, int]) -> None:
    values = np.random.default_rng(13).integers(0, 65536, (*size, samples)).astype(">u2")
    passes = [values[y::down, x::across] for x, y, across, down in ADAM7]
    plain, woven = (raw_png(size, kind, parts, len(parts) > 1) for parts in ([values], passes))
    assert np.array_equal(decode_image(woven, MOST), decode_image(plain, MOST))


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Where each pass begins, and its steps (PNG specification, 8.2)."""


def raw_png(size: tuple[int, int], kind: int, parts: list[NDArray[Any]], is_woven: bool) -> bytes:
    """A PNG of 16 bits by the specification, its rows without filters."""
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part))
    head = struct.pack(">IIBBBBB", size[1], size[0], 16, kind, 0, 0, is_woven)
    return PNG + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def test_where_an_orientation_stands_after_the_pixels_of_a_deep_picture_it_is_obeyed() -> None:
    values = np.arange(12, dtype=">u2").reshape(3, 4, 1) * np.uint16(1000)
    exif = Image.Exif()
    exif[0x0112] = 3
    chunk = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    plain = raw_png((3, 4), 0, [values.astype(">u2")], is_woven=False)
    turned = decode_image(plain[:-12] + chunk + plain[-12:], MOST)
    assert np.array_equal(turned, decode_image(plain, MOST)[::-1, ::-1])


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
