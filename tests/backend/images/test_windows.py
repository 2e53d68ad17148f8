"""TIFFs too large to be read whole are read in windows, which hold what the whole image has there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from backend.assemble import media_options
from backend.images import Media
from backend.images.decode import decode_image
from backend.images.limits import LargeImage
from backend.images.windows import WindowReader, open_large
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


def test_a_large_file_on_its_side_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(), photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    with pytest.raises(ImageError, match="lies on its side"):
        open_large(path, 1000)
