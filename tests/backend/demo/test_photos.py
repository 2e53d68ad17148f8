from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.demo import photos
from backend.demo.photos import EXAMPLES, find_examples, find_photos, lay_out
from backend.values.errors import ImageError, SetupError

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8))


def test_photos_are_found_in_nested_folders_whatever_the_case_of_their_suffix(tmp_path: Path) -> None:
    wanted = [tmp_path / "a.JPG", tmp_path / "b c" / "d" / "e.webp", tmp_path / "f.tiff", tmp_path / "g.jpeg"]
    for path in (*wanted, tmp_path / "notes.txt", tmp_path / ".hidden.png", tmp_path / ".cache" / "thumb.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "folder.png").mkdir()
    assert find_photos(tmp_path) == wanted


def test_a_folder_whose_own_path_is_hidden_is_searched(tmp_path: Path) -> None:
    (tmp_path / ".mine").mkdir()
    (tmp_path / ".mine" / "a.png").touch()
    assert find_photos(tmp_path / ".mine") == [tmp_path / ".mine" / "a.png"]


@pytest.mark.parametrize(
    ("name", "said"), [("nowhere", "does not exist"), ("file.png", "is not a folder"), (".", "holds no photos")]
)
def test_a_folder_without_photos_is_said_plainly(name: str, said: str, tmp_path: Path) -> None:
    if name == "file.png":
        (tmp_path / name).touch()
    with pytest.raises(SetupError, match=said):
        find_photos(tmp_path / name)


def test_the_examples_are_in_the_wheel_of_scikit_image() -> None:
    found = find_examples()
    assert [path.name for path in found] == list(EXAMPLES)
    for path in found:
        with Image.open(path) as photo:
            assert photo.mode == "RGB"


def test_a_photo_is_laid_out_without_taking_disk_space_twice(tmp_path: Path) -> None:
    photo = tmp_path / "a.png"
    PICTURE.save(photo)
    place = lay_out(photo, tmp_path / "deep" / "er" / "a.png")
    assert place.samefile(photo)


def test_where_the_disk_has_no_hard_links_a_photo_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    photo = tmp_path / "a.png"
    PICTURE.save(photo)
    place = lay_out(photo, tmp_path / "out" / "a.png")
    assert not place.samefile(photo)
    assert place.read_bytes() == photo.read_bytes()


def test_a_photo_that_lies_there_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = tmp_path / "a.tif"
    PICTURE.save(photo)
    place = lay_out(photo, tmp_path / "out" / "a.tif")
    monkeypatch.setattr(photos, "check", lambda _: pytest.fail("read again"))
    assert lay_out(photo, tmp_path / "out" / "a.tif") == place


def test_a_photo_that_was_replaced_is_laid_out_anew(tmp_path: Path) -> None:
    photo, target = tmp_path / "a.png", tmp_path / "out" / "a.png"
    PICTURE.save(photo)
    lay_out(photo, target)
    photo.unlink()
    PICTURE.resize((60, 40)).save(photo)
    os.utime(photo, (1, 1))
    with Image.open(lay_out(photo, target)) as shown:
        assert shown.size == (60, 40)


def test_a_tiff_becomes_an_upright_png_because_browsers_show_no_tiff(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side: turn it by 90 degrees clockwise
    PICTURE.save(tmp_path / "a.tif", exif=exif)
    place = lay_out(tmp_path / "a.tif", tmp_path / "out" / "a.tif")
    assert place.name == "a.tif.png"
    with Image.open(place) as shown:
        assert np.array_equal(np.asarray(shown), np.rot90(np.asarray(PICTURE), -1))


def test_a_tiff_of_16_bits_keeps_its_range_of_tones(tmp_path: Path) -> None:
    ramp = np.linspace(1000, 5000, 300).astype(np.uint16).reshape(10, 30)
    Image.fromarray(ramp).save(tmp_path / "deep.tiff")
    with Image.open(lay_out(tmp_path / "deep.tiff", tmp_path / "out" / "deep.tiff")) as shown:
        tones = np.asarray(shown)
    assert tones.dtype == np.uint8
    assert (tones.min(), tones.max()) == (0, 255)
    assert (np.diff(tones.ravel().astype(int)) >= 0).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_a_broken_photo_is_said_by_name_and_not_laid_out(suffix: str, tmp_path: Path) -> None:
    photo = tmp_path / f"broken.{suffix}"
    PICTURE.resize((300, 200)).save(photo)
    photo.write_bytes(photo.read_bytes()[: photo.stat().st_size // 2])
    with pytest.raises(ImageError, match=rf"broken.{suffix} cannot be read"):
        lay_out(photo, tmp_path / "out" / photo.name)
    assert not (tmp_path / "out").exists()
