"""A project with photos: which files are photos, where they are laid, the config, and the steps that are shown."""

from __future__ import annotations

import io
import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from backend.demo import filling
from backend.demo.filling import (
    EXAMPLES,
    ProjectSpec,
    Steps,
    count_masks,
    find_examples,
    find_photos,
    lay_out,
    recommended_config,
)
from backend.labelstudio.api import Prediction, Task
from backend.labelstudio.config import read_config
from backend.values.errors import ImageError, SetupError


def wanted(root: str = "/photos", labels: tuple[str, ...] = ("cat", "cup")) -> ProjectSpec:
    return ProjectSpec("photos", Path(root), [], labels, Path("/state/photos"), "http://127.0.0.1:9090")


def test_another_folder_or_other_labels_make_another_project() -> None:
    assert wanted().key == wanted().key
    assert len({wanted().key, wanted("/more").key, wanted(labels=("cat",)).key, wanted(labels=("cat, cup",)).key}) == 4


def test_a_project_is_served_its_own_folder_only() -> None:
    assert wanted().served.parent == Path("/state/photos")
    assert wanted().served != wanted("/more").served


def test_masks_are_counted_by_label_for_one_model_version_only() -> None:
    cat, cup = ({"value": {"brushlabels": [label]}} for label in ("cat", "cup"))
    text = {"value": {"text": ["a message"]}}
    tasks = [
        Task(1, {}, (Prediction("m-2", 1.0, [cat, cat, text]), Prediction("m-1", 1.0, [cup, cup, cup]))),
        Task(2, {}, (Prediction("m-2", 0.5, [cup]), Prediction("m-2", 0.5, [cup]))),  # Label Studio sometimes stores one twice
        Task(3, {}),
    ]
    assert count_masks(tasks, "m-2") == {"cat": 2, "cup": 1}


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
    monkeypatch.setattr(filling, "check", lambda _: pytest.fail("read again"))
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


LABELS = st.lists(st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1), min_size=1, unique=True)


@given(LABELS)
def test_every_control_has_every_label_whatever_it_is_called(labels: list[str]) -> None:
    root = ElementTree.fromstring(recommended_config(labels))
    controls = [tag for tag in root.iter() if tag.tag.endswith("Labels")]
    assert {tag.tag for tag in controls} == {"BrushLabels", "KeyPointLabels", "RectangleLabels", "PolygonLabels"}
    assert all([label.get("value") for label in tag] == labels for tag in controls)


def test_points_boxes_and_words_prompt_and_brushes_hold_the_masks() -> None:
    config = read_config(recommended_config(["cat", "cup & saucer"]))
    controls = {control.type: control for control in config.controls}
    assert controls["keypointlabels"].is_smart_only
    assert controls["rectanglelabels"].is_smart_only
    assert not controls["brushlabels"].is_smart_only
    assert controls["brushlabels"].labels == ("cat", "cup & saucer")
    assert [area.name for area in config.labels_of(config.first_image).text_areas] == ["prompt"]


def test_neighbouring_labels_have_different_colours() -> None:
    root = ElementTree.fromstring(recommended_config([f"label {i}" for i in range(10)]))
    brush = next(root.iter("BrushLabels"))
    assert len({label.get("background") for label in brush}) == 10


def written(steps: Steps) -> str:
    file = steps.console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


@pytest.fixture
def steps() -> Steps:
    """What a log file would hold, as there is no terminal."""
    return Steps(Console(file=io.StringIO(), width=40))


def test_a_step_leaves_one_line_with_its_seconds(steps: Steps) -> None:
    with steps.step("Project") as tell:
        tell("halfway [100%]")
    assert written(steps).startswith("Project: 0.")
    assert written(steps).count("\n") == 1


def test_a_bar_leaves_one_line_with_the_number_of_things(steps: Steps) -> None:
    with steps.bar("Photos", 3) as advance:
        advance(3)
    assert written(steps).startswith("Photos (3): 0.")
    assert written(steps).count("\n") == 1


def test_a_step_that_fails_is_not_called_done(steps: Steps) -> None:
    with pytest.raises(ValueError, match="no"), steps.step("Project"):
        raise ValueError("no")
    assert written(steps) == ""


def test_brackets_in_names_of_files_are_shown_as_they_are_and_long_lines_stay_whole(steps: Steps) -> None:
    steps.warn("left out: /photos/[red]/a.png" + "x" * 50)
    assert written(steps) == "left out: /photos/[red]/a.png" + "x" * 50 + "\n"
