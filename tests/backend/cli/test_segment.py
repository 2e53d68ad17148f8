from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from pycocotools import mask as coco
from typer.testing import CliRunner

from backend.assemble import image_files
from backend.cli import cli
from backend.cli.segment import PhotoAnswer, PhotoPrompts, segment_photo
from backend.engines import colour
from backend.segmenter import Segmenter
from backend.values.errors import RequestError
from backend.values.features import FeatureCache
from backend.values.settings import Settings
from tests.backend.pictures import two_red_discs, two_shapes


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "shapes.png"
    Image.fromarray(two_shapes().image).save(path)
    return path


def run(photo: Path, prompts: PhotoPrompts) -> PhotoAnswer:
    settings = Settings(home=photo.parent / "home")
    return segment_photo(photo, prompts, image_files(settings), Segmenter(colour.build(None), FeatureCache(1 << 26)))


def test_words_clicks_boxes_and_polygons_are_read_from_text(photo: Path) -> None:
    truth = two_shapes().shapes["blue square"]
    for prompts in (
        PhotoPrompts(texts=("blue",)),
        PhotoPrompts(points=("85,40",)),
        PhotoPrompts(points=("85 40", "30,40"), negative_points=("30,42",)),
        PhotoPrompts(boxes=("70,20,110,60",)),
        PhotoPrompts(polygons=("80,30,100,30,100,50,80,50",)),
    ):
        answer = run(photo, prompts)
        assert len(answer.masks) == 1, prompts
        assert np.array_equal(answer.masks.masks[0], truth), prompts


def test_a_reference_and_a_mask_come_from_picture_files(photo: Path, tmp_path: Path) -> None:
    other = two_red_discs()
    Image.fromarray(other.image).save(tmp_path / "other.png")
    Image.fromarray(other.shapes["blue square"]).save(tmp_path / "where.png")
    answer = run(photo, PhotoPrompts(reference=tmp_path / "other.png", reference_mask=tmp_path / "where.png"))
    assert np.array_equal(answer.masks.masks[0], two_shapes().shapes["blue square"])
    Image.fromarray(two_shapes().shapes["red disc"]).save(tmp_path / "mask.png")
    assert np.array_equal(run(photo, PhotoPrompts(mask=tmp_path / "mask.png")).masks.masks[0], two_shapes().shapes["red disc"])


def test_the_json_file_holds_masks_that_coco_tools_read(photo: Path, tmp_path: Path) -> None:
    run(photo, PhotoPrompts(texts=("blue, red",))).write_json(tmp_path / "masks.json")
    written = json.loads((tmp_path / "masks.json").read_text())
    assert written["size"] == [80, 120]
    found = {mask["label"]: mask for mask in written["masks"]}
    assert set(found) == {"blue", "red"}
    assert np.array_equal(coco.decode(found["blue"]["segmentation"]).astype(bool), two_shapes().shapes["blue square"])
    assert found["blue"]["bbox"] == [75, 25, 30, 30]
    assert found["blue"]["area"] == 900


def test_the_overlay_colours_the_mask_and_leaves_the_rest(photo: Path, tmp_path: Path) -> None:
    run(photo, PhotoPrompts(points=("85,40",))).write_overlay(tmp_path / "masks.png")
    before, after = two_shapes().image, np.asarray(Image.open(tmp_path / "masks.png"))
    assert after.shape == before.shape
    changed = (before != after).any(axis=2)
    assert changed[two_shapes().shapes["blue square"]].all()
    assert not changed[two_shapes().shapes["red disc"]].any()


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (PhotoPrompts(), "nothing was asked"),
        (PhotoPrompts(points=("85",)), "--point expects x,y"),
        (PhotoPrompts(points=("a,b",)), "expects numbers"),
        (PhotoPrompts(boxes=("1,2,3",)), "--box expects x0,y0,x1,y1"),
        (PhotoPrompts(boxes=("30,2,3,9",)), "x0 <= x1"),
        (PhotoPrompts(polygons=("1,2,3",)), "pairs x,y"),
        (PhotoPrompts(points=("900,40",)), "outside the image"),
        (PhotoPrompts(reference=Path("x.png")), "--reference-mask"),
    ],
)
def test_prompts_that_cannot_be_read_are_explained(photo: Path, prompts: PhotoPrompts, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        run(photo, prompts)


@pytest.mark.parametrize("kind", ["mask", "reference"])
def test_a_mask_of_another_size_is_refused(photo: Path, tmp_path: Path, kind: str) -> None:
    small = tmp_path / "small.png"
    Image.fromarray(np.ones((10, 20), np.bool_)).save(small)
    prompts = PhotoPrompts(mask=small) if kind == "mask" else PhotoPrompts(reference=photo, reference_mask=small)
    with pytest.raises(RequestError, match="expected a mask of 120 x 80 pixels, got 20 x 10"):
        run(photo, prompts)


def test_an_overlay_that_cannot_be_written_is_explained(photo: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"cannot write the picture .*masks\.txt"):
        run(photo, PhotoPrompts(points=("85,40",))).write_overlay(tmp_path / "masks.txt")


@pytest.mark.slow
def test_the_command_says_how_far_it_is_with_an_image_too_large_to_be_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"ENGINE": "colour", "HOME": str(tmp_path / "home"), "MAX_IMAGE_MEGAPIXELS": "0.1"}.items():
        monkeypatch.setenv(f"MASKLOOM_{name}", value)
    monkeypatch.setattr("backend.tiling.TELL_S", 0.0)
    pixels = np.random.default_rng(0).integers(200, 240, (800, 1500, 1), np.uint8).repeat(3, 2)
    pixels[700:740, 750:790] = (230, 20, 20)
    tifffile.imwrite(tmp_path / "large.tif", pixels, photometric="rgb", tile=(256, 256), compression="zlib")
    for _ in range(2):
        done = CliRunner().invoke(cli, ["segment", "large.tif", "--text", "red", "--json", "masks.json"])
        assert done.exit_code == 0, done.output
        told = done.output + capsys.readouterr().err
        assert told.count("looked at 1 of 6 tiles of 1500 x 800 pixels") == 1
    (found,) = json.loads((tmp_path / "masks.json").read_text())["masks"]
    assert found["area"] == 1600
