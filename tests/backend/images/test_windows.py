"""TIFFs too large to be read whole are read in windows, which hold what the whole image has there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import pyvips
import tifffile
from pydantic import ValidationError

from backend.assemble import media_options
from backend.images import Media, windows
from backend.images.decode import decode_image
from backend.images.limits import LargeImage
from backend.images.windows import VipsReader, WindowReader, open_large
from backend.values.errors import ImageError
from backend.values.settings import Settings

HEIGHT, WIDTH = 500, 700
LAYOUTS: dict[str, dict[str, Any]] = {
    "bare": {},
    "strips": {"rowsperstrip": 64, "compression": "zlib"},
    "tiles": {"tile": (128, 112), "compression": "zlib"},
    "bare planes": {"planarconfig": "separate"},
    "tiled planes": {"planarconfig": "separate", "tile": (128, 128), "compression": "zlib"},
}
BOXES = [(0, 0, 700, 500), (100, 90, 101, 91), (120, 60, 400, 333), (650, 450, 700, 500)]


def picture(bands: int = 3, kind: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(kind).max, (HEIGHT, WIDTH, bands), dtype=kind)


def stored(path: Path, pixels: np.ndarray, **layout: Any) -> Path:
    planes = np.moveaxis(pixels, -1, 0) if layout.get("planarconfig") == "separate" else pixels
    layout = {"planarconfig": "contig", **layout}
    tifffile.imwrite(path, planes, photometric="rgb" if pixels.shape[2] == 3 else "minisblack", **layout)
    return path


@pytest.mark.parametrize("box", BOXES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_window_is_the_part_of_the_whole_in_every_layout(tmp_path: Path, layout: str, box: tuple[int, int, int, int]) -> None:
    pixels = picture()
    reader = WindowReader(stored(tmp_path / "a.tif", pixels, **LAYOUTS[layout]))
    x0, y0, x1, y1 = box
    assert np.array_equal(reader.read(box), pixels[y0:y1, x0:x1])
    assert np.array_equal(reader.read(box, 3), pixels[y0:y1:3, x0:x1:3])


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sixteen_bits_and_many_bands_are_shown_about_as_they_are_when_they_are_read_whole(tmp_path: Path, layout: str) -> None:
    for name, pixels in (("deep", picture(3, np.uint16)), ("many", picture(6))):
        path = stored(tmp_path / f"{name}.tif", pixels, **LAYOUTS[layout])
        shown = WindowReader(path).read((0, 0, WIDTH, HEIGHT)).astype(int)
        if name == "many":
            assert np.array_equal(shown, pixels[..., :3]), "8 bits are shown as they are"
        else:
            assert np.abs(shown - decode_image(path.read_bytes(), 1 << 30)).mean() < 3


def test_the_bands_can_be_chosen(tmp_path: Path) -> None:
    pixels = picture(6)
    for layout in LAYOUTS.values():
        reader = WindowReader(stored(tmp_path / "a.tif", pixels, **layout), bands=(4, 2, 0))
        assert np.array_equal(reader.read((10, 20, 300, 400)), pixels[20:400, 10:300][..., [4, 2, 0]])


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_bands_are_shown_of_a_file_that_is_read_whole(tmp_path: Path, layout: str) -> None:
    for kind in (np.uint8, np.uint16):
        pixels = picture(6, kind)
        path = stored(tmp_path / "a.tif", pixels, **LAYOUTS[layout])
        whole = decode_image(path.read_bytes(), 1 << 30, (4, 2, 0)).astype(int)
        shown = WindowReader(path, (4, 2, 0)).read((0, 0, WIDTH, HEIGHT)).astype(int)
        assert np.abs(whole - shown).mean() < 3
        assert np.corrcoef(whole[..., 0].ravel(), pixels[..., 4].ravel())[0, 1] > 0.99


def test_the_setting_counts_bands_from_one_and_another_choice_is_another_image(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.tif", pixels := picture(5))
    keys = set()
    for bands, limit in (("5, 3,1", 64.0), ("", 64.0), ("5,3,1", 0.001), ("", 0.001)):
        settings = Settings(home=tmp_path / "home", bands=bands, max_image_megapixels=limit)
        image = Media(replace(media_options(settings), local_roots=(tmp_path,))).load(str(path), "", None)
        keys.add(image.key)
        seen = image.window((0, 0, 9, 9)).pixels if isinstance(image, LargeImage) else image.pixels[:9, :9]
        assert np.array_equal(seen, pixels[:9, :9][..., [4, 2, 0] if bands else [0, 1, 2]])
    assert len(keys) == 4
    short = Settings(home=tmp_path / "home", bands="6,3,1")
    with pytest.raises(ImageError, match="it has 5 bands, and MASKLOOM_BANDS wants number 6"):
        Media(replace(media_options(short), local_roots=(tmp_path,))).load(str(path), "", None)


def test_three_bands_and_transparency_stay_as_they_are_whatever_is_chosen(tmp_path: Path) -> None:
    rgb, alpha = picture(3), picture(4)
    path = stored(tmp_path / "rgb.tif", rgb)
    assert np.array_equal(WindowReader(path, (4, 2, 0)).read((0, 0, 9, 9)), rgb[:9, :9])
    tifffile.imwrite(tmp_path / "a.tif", alpha, photometric="rgb", extrasamples=["unassalpha"])
    body = (tmp_path / "a.tif").read_bytes()
    assert np.array_equal(decode_image(body, 1 << 30, (3, 2, 1)), decode_image(body, 1 << 30))


@pytest.mark.parametrize("bands", ["0,1,2", "1,2", "red", "1,2,3,4", "1;2;3"])
def test_what_names_no_three_bands_is_no_setting(bands: str) -> None:
    with pytest.raises(ValidationError, match="bands"):
        Settings(bands=bands)


@pytest.mark.parametrize("name", ["a.png", "lzw.tif", "jpeg.tif"])
def test_libvips_reads_windows_of_what_tifffile_cannot(tmp_path: Path, name: str) -> None:
    pixels = cv2.resize(picture()[:20, :30], (WIDTH, HEIGHT))
    path = tmp_path / name
    how = {"jpeg": {"compression": "jpeg", "Q": 95}, "lzw": {"compression": "lzw"}}.get(name.split(".")[0], {})
    tiles = {"tile": True} if name.endswith("tif") else {}
    pyvips.Image.new_from_array(pixels).copy(interpretation="srgb").write_to_file(str(path), **how, **tiles)
    large = open_large(path, 1000)
    assert large is not None
    for (x0, y0, x1, y1), step in zip(BOXES, (1, 1, 3, 2), strict=True):
        seen = large.window((x0, y0, x1, y1), step).pixels.astype(int)
        assert np.abs(seen - pixels[y0:y1:step, x0:x1:step]).mean() < (3 if "jpeg" in name else 1e-9)


@pytest.mark.parametrize("levels", ["pages", "below the first page"])
@pytest.mark.parametrize("compression", ["deflate", "jpeg"])
def test_of_a_pyramid_the_full_size_is_read(tmp_path: Path, levels: str, compression: str) -> None:
    pixels = cv2.resize(picture()[:20, :30], (WIDTH, HEIGHT))
    path, below = tmp_path / "a.tif", levels != "pages"
    image = pyvips.Image.new_from_array(pixels).copy(interpretation="srgb")
    image.tiffsave(str(path), tile=True, pyramid=True, subifd=below, tile_width=128, tile_height=128, compression=compression)
    large = open_large(path, 1000)
    assert large is not None
    assert (large.size.width, large.size.height) == (WIDTH, HEIGHT)
    for (x0, y0, x1, y1), step in zip(BOXES, (1, 1, 3, 2), strict=True):
        seen = large.window((x0, y0, x1, y1), step).pixels.astype(int)
        assert np.abs(seen - pixels[y0:y1:step, x0:x1:step]).mean() < (4 if compression == "jpeg" else 1e-9)


def test_libvips_shows_sixteen_bits_and_bands_as_tifffile_does(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.tif", picture(5, np.uint16))
    box = (40, 30, 300, 200)
    assert np.abs(VipsReader(path, (4, 2, 0)).read(box).astype(int) - WindowReader(path, (4, 2, 0)).read(box)).max() <= 1


def test_without_libvips_a_compression_that_cannot_be_read_says_which_command_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    pyvips.Image.new_from_array(picture()).write_to_file(str(path), compression="lzw", tile=True)
    monkeypatch.setattr(windows, "find_spec", lambda name: None)
    with pytest.raises(ImageError, match=r"imagecodecs.*run .*\[large\]"):
        open_large(path, 1000)
    pyvips.Image.new_from_array(picture()).write_to_file(str(tmp_path / "a.png"))
    assert open_large(tmp_path / "a.png", 1000) is None, "whoever reads it whole refuses it"


def test_a_file_that_libvips_cannot_read_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    with pytest.raises(ImageError, match="libvips cannot read it"):
        VipsReader(tmp_path / "a.png")


def test_only_what_is_larger_than_the_limit_is_read_in_windows(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.tif", picture())
    assert open_large(path, HEIGHT * WIDTH) is None
    large = open_large(path, HEIGHT * WIDTH - 1)
    assert large is not None
    assert (large.size.width, large.size.height) == (WIDTH, HEIGHT)
    with pytest.raises(ImageError, match="never whole"):
        _ = large.pixels
    (tmp_path / "c.tif").write_bytes(b"no tiff")
    assert open_large(tmp_path / "c.tif", 1) is None
    assert open_large(tmp_path / "missing.tif", 1) is None


def test_the_loader_gives_windows_of_a_large_file_and_another_key_when_the_file_changes(tmp_path: Path) -> None:
    options = replace(media_options(Settings(home=tmp_path / "home")), local_roots=(tmp_path,), max_pixels=1000, max_bytes=1000)
    media = Media(options)
    path = stored(tmp_path / "a.tif", picture())
    first = media.load(str(path), "", None)
    assert isinstance(first, LargeImage)
    assert media.load(str(path), "", None).key == first.key
    stored(path, picture()[:, ::-1], compression="zlib")
    assert media.load(str(path), "", None).key != first.key
    stored(path, picture()[:10, :10])
    with pytest.raises(ImageError, match=r"larger than the limit|cannot be had"):
        media.load(str(tmp_path / "gone.tif"), "", None)


def test_a_small_file_of_very_many_pixels_is_not_read_whole_before_its_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = stored(tmp_path / "a.tif", picture()), list[Path]()
    monkeypatch.setattr("backend.images.read_file", lambda path, most: read.append(path) or Path(path).read_bytes())
    for limit in (1000, 1_000_000):
        options = replace(media_options(Settings(home=tmp_path / "home")), local_roots=(tmp_path,), max_pixels=limit)
        assert isinstance(Media(options).load(str(path), "", None), LargeImage) == (limit == 1000)
        assert len(read) == (limit != 1000)


def test_a_large_file_on_its_side_is_turned_by_libvips_and_refused_in_words_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, pixels = tmp_path / "a.tif", picture()
    tifffile.imwrite(path, pixels, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    large = open_large(path, 1000)
    assert large is not None
    assert (large.size.width, large.size.height) == (HEIGHT, WIDTH)
    assert np.array_equal(large.window((0, 0, 9, 9)).pixels, np.rot90(pixels, -1)[:9, :9])
    monkeypatch.setattr(windows, "find_spec", lambda name: None)
    with pytest.raises(ImageError, match="lies on its side"):
        open_large(path, 1000)
