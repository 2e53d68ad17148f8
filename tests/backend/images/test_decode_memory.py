"""What decoding an image takes: little more than the image, however small its file, and never many large images at once."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from backend.images import deep
from backend.images.decode import decode_image
from backend.images.deep import DecodeGate
from tests.backend.images.pictures import MOST

MEASURE = """
import sys
from backend.images.decode import decode_image
def most():  # not of getrusage: that begins with what the process took that started this one
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
body = open(sys.argv[1], "rb").read()
before = most()
image = decode_image(body, 64_000_000)
print((most() - before) * 1024 - image.nbytes)
"""


def cost_above_the_image(path: Path) -> int:
    """The bytes that a process of its own takes at most to decode a file, beside the array."""
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
def test_a_large_transparent_picture_costs_what_pillow_takes_and_a_strip(tmp_path: Path) -> None:
    """Of 24 megapixels a file of 100 kB once took 1.1 GB, because its alpha was laid over white as one array of floats."""
    Image.new("RGBA", (3000, 2000), (255, 32, 32, 128)).save(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < 50_000
    assert cost_above_the_image(tmp_path / "a.png") < 6_000_000 * 4 + (40 << 20)


def save_deep_png(path: Path) -> None:
    cv2.imwrite(str(path), np.full((3000, 4000, 4), 9000, np.uint16))


def save_floats(path: Path) -> None:
    values = np.linspace(0, 1, 3000 * 4000 * 3).reshape(3000, 4000, 3)
    tifffile.imwrite(path, values, photometric="rgb", compression="zlib", rowsperstrip=50)


def save_with_alpha_apart(path: Path) -> None:
    values = np.full((4, 3000, 4000), 9000, np.uint16)
    layout = {"planarconfig": "separate", "compression": "zlib", "rowsperstrip": 50, "extrasamples": ["unassalpha"]}
    tifffile.imwrite(path, values, photometric="rgb", **layout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "save", "pixel_bytes"),
    [
        ("deep.png", save_deep_png, 0),
        ("floats.tif", save_floats, 0),
        ("apart.tif", save_with_alpha_apart, 0),
        ("plain.jpg", lambda path: Image.new("RGB", (4000, 3000), "red").save(path), 4),
        ("plain.webp", lambda path: Image.new("RGBA", (4000, 3000), "red").save(path, lossless=True, method=0), 4),
    ],
)
def test_no_format_costs_more_than_one_decoded_picture_and_a_strip(
    tmp_path: Path, name: str, save: Callable[[Path], None], pixel_bytes: int
) -> None:
    """Of 64 megapixels a PNG of 16 bits once took 800 MB beside its image, a TIFF of doubles 1.5 GB, a WebP 800 MB. Decoders
    that hold a picture hold ``pixel_bytes`` of each pixel; the others read it in strips.
    """
    save(tmp_path / name)
    assert cost_above_the_image(tmp_path / name) < 12_000_000 * pixel_bytes + (64 << 20)


@pytest.mark.slow
def test_a_tiff_of_many_bands_is_read_strip_by_strip_and_only_the_bands_that_are_shown(tmp_path: Path) -> None:
    """Of 250 bands of floats, 125 MB that 200 kB hold, three are shown."""
    values = np.zeros((250, 250, 250))
    values[..., 0] = np.linspace(0, 1, 250)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", planarconfig="contig", compression="zlib")
    assert cost_above_the_image(tmp_path / "a.tif") < 40 << 20
    shown = decode_image((tmp_path / "a.tif").read_bytes(), MOST)
    assert np.all(np.diff(shown[0, :, 0].astype(int)) >= 0)
    assert (shown[0, 0, 0], shown[0, -1, 0]) == (0, 255)


def test_a_tiff_that_is_one_large_piece_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep, "LARGEST_PIECE", 1 << 20)
    out = io.BytesIO()
    tifffile.imwrite(
        out, np.zeros((40, 40, 250)), photometric="minisblack", planarconfig="contig", compression="zlib", rowsperstrip=40
    )
    with pytest.raises(Exception, match="stored in pieces of more than 1 MiB"):
        decode_image(out.getvalue(), MOST)


@pytest.mark.parametrize("layout", [{"planarconfig": "separate"}, {"tile": (64, 64)}, {"rowsperstrip": 7}])
@pytest.mark.parametrize("bands", [3, 6])
def test_bands_lie_where_they_were_written_whatever_the_layout(layout: dict[str, object], bands: int) -> None:
    rng = np.random.default_rng(5)
    values = rng.integers(0, 2**16, (101, 130, bands), np.uint16)
    stored = np.moveaxis(values, -1, 0) if "planarconfig" in layout else values
    out, plain = io.BytesIO(), io.BytesIO()
    tifffile.imwrite(out, stored, photometric="minisblack", compression="zlib", **{"planarconfig": "contig"} | layout)
    tifffile.imwrite(plain, values, photometric="minisblack", planarconfig="contig")
    assert np.array_equal(decode_image(out.getvalue(), MOST), decode_image(plain.getvalue(), MOST))


def test_images_that_are_too_large_together_are_decoded_one_after_the_other() -> None:
    gate, under_way, most = DecodeGate(100), [], []

    def decode(size: int) -> None:
        with gate.room_for(size):
            under_way.append(size)
            most.append(sum(under_way))
            time.sleep(0.02)
            under_way.remove(size)

    threads = [threading.Thread(target=decode, args=(size,)) for size in (60, 60, 30, 30, 250, 10, 60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(most) == 7
    assert max(total for total in most if total < 250) <= 100
    assert most.count(250) == 1, "the largest is alone"
