"""Every export is read back, by pycocotools or by a reader of the documented format, as the masks that went in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow
from pycocotools import mask as rle
from pycocotools.coco import COCO

from backend.values.errors import RequestError
from backend.video import exports
from backend.video.tracks import FrameMask, Track, Tracks
from prompts.geometry import BoolArray, Size

SIZE, LENGTH = Size(20, 30), 5


def box(x: int) -> BoolArray:
    mask = np.zeros((SIZE.height, SIZE.width), np.bool_)
    mask[5:12, x : x + 6] = True
    return mask


TRUTH = {
    1: {frame: box(2 * frame) for frame in range(5)},
    2: {frame: box(20) for frame in (0, 1, 3)},
    7: {4: box(14)},
}
LABELS = {1: "cat", 2: "dog", 7: "cat"}
TRACKS = Tracks(
    SIZE,
    LENGTH,
    tuple(
        Track(number, LABELS[number], {f: FrameMask.of(m, 0.5, is_given=f == 0) for f, m in masks.items()})
        for number, masks in TRUTH.items()
    ),
)


def read(path: Path) -> NDArray[np.generic]:
    return np.asarray(Pillow.open(path))


def test_davis_is_an_indexed_picture_for_every_frame(tmp_path: Path) -> None:
    folder = exports.write_davis(TRACKS, tmp_path, "clip")

    assert sorted(path.name for path in folder.iterdir()) == [f"{k:05d}.png" for k in range(LENGTH)]
    for frame in range(LENGTH):
        picture = Pillow.open(folder / f"{frame:05d}.png")
        assert picture.mode == "P"
        for number, masks in TRUTH.items():
            np.testing.assert_array_equal(np.asarray(picture) == number, masks.get(frame, np.zeros((20, 30), np.bool_)))
    assert json.loads((tmp_path / "clip_is_gt.json").read_text()) == {"1": [0], "2": [0], "7": []}
    assert exports.davis_palette()[3:12] == [128, 0, 0, 0, 128, 0, 128, 128, 0]  # DAVIS: red, green, brown


def test_mots_pictures_and_text_say_the_same(tmp_path: Path) -> None:
    exports.write_mots(TRACKS, tmp_path, "clip")

    classes = json.loads((tmp_path / "classes.json").read_text())
    assert classes == {"cat": 1, "dog": 2}
    ids = {1: 1001, 2: 2001, 7: 1002}
    assert json.loads((tmp_path / "clip_is_gt.json").read_text()) == {"1001": [0], "2001": [0], "1002": []}
    from_text: dict[tuple[int, int], BoolArray] = {}
    for line in (tmp_path / "instances_txt" / "clip.txt").read_text().splitlines():
        frame, number, kind, height, width, counts = line.split(" ")
        assert int(kind) == int(number) // 1000
        decoded = rle.decode({"size": [int(height), int(width)], "counts": counts.encode()})
        from_text[int(frame), int(number)] = decoded.astype(np.bool_)
    expected = {(frame, ids[number]): mask for number, masks in TRUTH.items() for frame, mask in masks.items()}
    assert from_text.keys() == expected.keys()
    for (frame, number), mask in expected.items():
        np.testing.assert_array_equal(from_text[frame, number], mask)
        picture = read(tmp_path / "instances" / "clip" / f"{frame:06d}.png")
        assert picture.dtype == np.uint16
        np.testing.assert_array_equal(picture == number, mask)


def test_youtube_vis_has_null_where_a_track_is_absent(tmp_path: Path) -> None:
    body = json.loads(exports.write_youtube_vis(TRACKS, tmp_path, "clip").read_text())

    (video,) = body["videos"]
    assert (video["width"], video["height"], video["length"], len(video["file_names"])) == (30, 20, LENGTH, LENGTH)
    names = {each["id"]: each["name"] for each in body["categories"]}
    for annotation in body["annotations"]:
        masks = TRUTH[annotation["id"]]
        assert names[annotation["category_id"]] == LABELS[annotation["id"]]
        assert [one is not None for one in annotation["segmentations"]] == [k in masks for k in range(LENGTH)]
        for frame, mask in masks.items():
            np.testing.assert_array_equal(rle.decode(annotation["segmentations"][frame]).astype(np.bool_), mask)
            assert annotation["areas"][frame] == mask.sum()
            assert annotation["is_gt"][frame] == (frame == 0)


def test_coco_is_read_by_pycocotools(tmp_path: Path) -> None:
    coco = COCO(str(exports.write_coco(TRACKS, tmp_path, "clip")))

    assert len(coco.imgs) == LENGTH
    seen = 0
    for frame in range(LENGTH):
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[frame + 1])):
            mask = TRUTH[annotation["track_id"]][frame]
            np.testing.assert_array_equal(coco.annToMask(annotation).astype(np.bool_), mask)
            x, y, width, height = annotation["bbox"]
            assert mask[y : y + height, x : x + width].all()
            assert width * height == mask.sum() == annotation["area"]
            assert annotation["is_gt"] == (frame == 0)
            seen += 1
    assert seen == sum(len(masks) for masks in TRUTH.values())


def test_where_masks_overlap_the_surer_one_is_in_front(tmp_path: Path) -> None:
    weak, sure = FrameMask.of(box(3), 0.4), FrameMask.of(box(5), 0.9)
    both = Tracks(SIZE, 1, (Track(1, None, {0: sure}), Track(2, None, {0: weak})))

    picture = read(exports.write_davis(both, tmp_path, "clip") / "00000.png")

    np.testing.assert_array_equal(picture == 1, box(5))
    np.testing.assert_array_equal(picture == 2, box(3) & ~box(5))


def test_more_objects_than_a_format_has_room_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="1 to 253"):
        exports.write_davis(Tracks(SIZE, 1, (Track(254),)), tmp_path, "clip")
    with pytest.raises(RequestError, match="63 classes and 998"):
        exports.write_mots(Tracks(SIZE, 1, tuple(Track(k) for k in range(1, 1001))), tmp_path, "clip")
