"""What the files hold: masks equal to the pixel, readable by the tools that they are for, and whole after a crash."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools.coco import COCO

from backend.bulk.spec import JobSpec
from backend.bulk.to_files import coco_file, png_folder, yolo_folder
from backend.bulk.values import FoundRegion, ItemResult, Target, decode_mask, encode_mask
from backend.labelstudio.shapes import read_regions
from backend.stores.ledger import Item
from backend.values.errors import ConfigError, RequestError
from backend.values.masks import RunLengths
from prompts.geometry import Size, polygon_mask
from tests.backend.bulk.runs import context_for, drawn, job_of, picture_folder, pipeline, run_of, same
from tests.backend.pictures import BLUE, RED, paint

LABELS = ["red", "blue"]
SIZE = Size(48, 64)


def answer(number: int, *regions: tuple[str, float, np.ndarray]) -> ItemResult:
    item = Item(f"{number}.png", {"id": f"{number}.png", "data": {}}, "")
    found = [
        FoundRegion(label, score, int(mask.sum()), (0, 0, 64, 48), encode_mask(RunLengths.of(mask)))
        for label, score, mask in regions
    ]
    return ItemResult(item, SIZE, found)


def shapes(number: int) -> list[tuple[str, float, np.ndarray]]:
    return [(label, 0.9, mask) for label, mask in drawn(number).shapes.items()]


@given(arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_masks_survive_their_code(mask: np.ndarray) -> None:
    assert same(decode_mask(encode_mask(RunLengths.of(mask)), Size(*mask.shape)), mask)


def test_a_png_has_the_number_of_the_label_and_the_better_score_on_top(tmp_path: Path) -> None:
    below, above = np.zeros((48, 64), bool), np.zeros((48, 64), bool)
    below[:, :40] = True
    above[10:20, 30:60] = True
    png_folder(tmp_path, LABELS).write([answer(1, ("blue", 0.9, above), ("red", 0.5, below))])
    picture = np.asarray(Image.open(tmp_path / "1.png.png"))
    assert same(picture == 2, above)
    assert same(picture == 1, below & ~above)


def test_more_labels_than_a_byte_holds_make_16_bit_pngs(tmp_path: Path) -> None:
    labels = [f"label {number}" for number in range(300)]
    png_folder(tmp_path, labels).write([answer(1, ("label 299", 0.9, drawn(1).shapes["red"]))])
    picture = np.asarray(Image.open(tmp_path / "1.png.png"))
    assert picture.dtype == np.uint16
    assert same(picture == 300, drawn(1).shapes["red"])


def test_yolo_lines_draw_the_masks_again(tmp_path: Path) -> None:
    sink = yolo_folder(tmp_path, LABELS, lambda key: False)
    sink.write([answer(3, *shapes(3)), answer(4)])
    sink.finish()
    assert (tmp_path / "4.txt").read_text() == ""
    assert '1: "blue"' in (tmp_path / "data.yaml").read_text()
    lines = (tmp_path / "3.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1"]
    for line, (_, _, truth) in zip(lines, shapes(3), strict=True):
        points = np.array(line.split()[1:], float).reshape(-1, 2) * (64, 48)
        again = polygon_mask(points, SIZE)
        assert same(again, truth)


def test_a_line_that_a_crash_cut_short_is_left_out_and_the_last_line_of_an_image_counts(tmp_path: Path) -> None:
    sink = coco_file(tmp_path / "coco.json", LABELS, lambda item: item.key, "mine")
    sink.write([answer(1, *shapes(1)), answer(2, *shapes(2))])
    whole = sink.parts.read_bytes()
    sink.parts.write_bytes(whole + whole.splitlines()[1][:40])
    assert sink.arrived(["1.png", "2.png", "3.png"]) == {"1.png", "2.png"}
    sink.write([answer(3, *shapes(3)), answer(1)])
    sink.finish()
    coco = COCO(str(tmp_path / "coco.json"))
    images = {image["file_name"]: image["id"] for image in coco.loadImgs(coco.getImgIds())}
    assert {name: len(coco.getAnnIds(number)) for name, number in images.items()} == {"1.png": 0, "2.png": 2, "3.png": 2}


def test_a_coco_row_has_the_sides_the_box_the_area_and_the_score_where_coco_has_them(tmp_path: Path) -> None:
    """An image of 64 x 48 with a region of 5 x 6 at (3, 4)."""
    item = Item("7", {"id": 7, "data": {}}, "")
    sink = coco_file(tmp_path / "coco.json", LABELS, lambda item: f"{item.key}.png", "mine")
    sink.write([ItemResult(item, SIZE, [FoundRegion("blue", 0.25, 29, (3, 4, 5, 6), "rle"), FoundRegion("strange", 0.5, 1)])])
    sink.finish()
    made = json.loads((tmp_path / "coco.json").read_text())
    assert made["images"] == [{"id": 1, "file_name": "7.png", "height": 48, "width": 64}]
    assert made["categories"] == [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]
    segmentation = {"size": [48, 64], "counts": "rle"}
    told = {"category_id": 2, "segmentation": segmentation, "bbox": [3, 4, 5, 6], "area": 29, "score": 0.25, "iscrowd": 0}
    assert made["annotations"] == [{"id": 1, "image_id": 1, **told}]


def test_coco_masks_equal_those_of_label_studio(tmp_path: Path) -> None:
    photos = picture_folder(tmp_path / "photos", 5)
    context = context_for(photos, tmp_path / "home")
    for target in (Target.COCO, Target.IMPORT):
        spec = JobSpec(str(photos), target, tmp_path / f"{target}.json", labels="red, blue")
        job = job_of(context, spec)
        run_of(context, job).work(pipeline(context, job))
        job.sink.finish()
    coco = COCO(str(tmp_path / "coco.json"))
    tasks = {task["data"]["image"][-8:]: task["predictions"][0] for task in json.loads((tmp_path / "import.json").read_text())}
    for image in coco.loadImgs(coco.getImgIds()):
        theirs = {region.label: region.mask for region in read_regions(tasks[image["file_name"]]["result"])}
        found = coco.loadAnns(coco.getAnnIds(image["id"]))
        assert len(found) == len(theirs) == 2
        for annotation in found:
            label = coco.loadCats(annotation["category_id"])[0]["name"]
            assert same(coco.annToMask(annotation).astype(bool), theirs[label])


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (JobSpec("{root}"), "say what to look for"),
        (JobSpec("{root}", labels="=kitten"), "expected labels like"),
        (JobSpec("{root}", labels="cat", min_score="cat=2"), "expected a score in 0..1"),
        (JobSpec("{root}", labels="cat", min_score="high"), "expected a score in 0..1"),
        (JobSpec("{root}", Target.PREDICTIONS, labels="cat"), "predictions go to a project"),
        (JobSpec("{root}", config=Path("/nowhere/config.xml")), "config.xml cannot be read: .*name another file with --config"),
        (JobSpec("{root}", Target.PNG, Path("{root}"), labels="cat"), "would lie among the images .*choose another --out"),
    ],
)
def test_a_job_that_makes_no_sense_is_refused_with_what_to_say(tmp_path: Path, spec: JobSpec, words: str) -> None:
    photos = picture_folder(tmp_path / "photos", 1)
    if spec.out is not None:
        spec = replace(spec, out=photos)
    with pytest.raises((RequestError, ConfigError), match=words):
        job_of(context_for(photos, tmp_path / "home"), replace(spec, source=str(photos)))


def test_a_file_holds_the_answers_of_one_command_whatever_another_one_wrote_there(tmp_path: Path) -> None:
    """A label's number is its place among the labels of the command: another one's answers would be read as other labels."""
    photos, out = picture_folder(tmp_path / "photos", 4), tmp_path / "coco.json"
    context = context_for(photos, tmp_path / "home")

    def found(labels: str, limit: int | None) -> dict[str, set[str]]:
        job = job_of(context, JobSpec(str(photos), Target.COCO, out, labels=labels))
        run_of(context, job, limit).work(pipeline(context, job))
        job.sink.finish()
        coco = COCO(str(out))
        names = {category["id"]: category["name"] for category in coco.loadCats(coco.getCatIds())}
        images = coco.loadImgs(coco.getImgIds())
        return {image["file_name"]: {names[each["category_id"]] for each in coco.imgToAnns[image["id"]]} for image in images}

    assert found("red", None) == {f"000{k}.png": {"red"} for k in range(4)}
    assert found("blue, red", 1) == {"0000.png": {"blue", "red"}}
    assert found("red", None) == {f"000{k}.png": {"red"} for k in range(4)}


def test_another_prefix_makes_another_import_file(tmp_path: Path) -> None:
    photos, out = picture_folder(tmp_path / "photos", 2), tmp_path / "import.json"
    (photos / "0001.png").rename(photos / "1 of #2.png")
    context = context_for(photos, tmp_path / "home")
    for prefix in ("/a/", "https://b/"):
        job = job_of(context, JobSpec(str(photos), Target.IMPORT, out, labels="red", url_prefix=prefix))
        run_of(context, job).work(pipeline(context, job))
        job.sink.finish()
        assert [task["data"]["image"] for task in json.loads(out.read_text())] == [
            f"{prefix}0000.png",
            f"{prefix}1%20of%20%232.png",
        ]


def test_masks_that_were_made_inside_the_folder_are_no_images_of_the_next_run(tmp_path: Path) -> None:
    photos = picture_folder(tmp_path / "photos", 3)
    context = context_for(photos, tmp_path / "home")
    spec = JobSpec(str(photos), Target.PNG, photos / "png-masks", labels="red")
    for _ in range(2):
        job = job_of(context, spec)
        assert run_of(context, job).work(pipeline(context, job)).total == 3
    assert len(list((photos / "png-masks").glob("*.png"))) == 3
    above = job_of(context, JobSpec(str(photos), Target.YOLO, tmp_path, labels="red"))
    assert len(list(above.source.items())) == 3 + 3


def test_images_that_differ_in_their_endings_alone_keep_their_lines_apart(tmp_path: Path) -> None:
    """``a.png`` shows a red disc, ``a.jpg`` a blue square; once one overwrote the other and both were called done."""
    photos = picture_folder(tmp_path / "photos", 1)
    (photos / "b").mkdir()
    for name, shape, colour in (("b/a.png", "red", RED), ("b/a.JPG", "blue", BLUE)):
        Image.fromarray(paint({shape: (drawn(0).shapes[shape], colour)}).image).save(photos / name, quality=95)
    context = context_for(photos, tmp_path / "home")
    job = job_of(context, JobSpec(str(photos), Target.YOLO, tmp_path / "yolo", labels="red, blue"))
    assert run_of(context, job).work(pipeline(context, job)).done == 3
    numbers = {
        path.relative_to(tmp_path / "yolo").as_posix(): [line.split()[0] for line in path.read_text().splitlines()]
        for path in (tmp_path / "yolo").rglob("*.txt")
    }
    assert numbers == {"0000.txt": ["0", "1"], "b/a.png.txt": ["0"], "b/a.JPG.txt": ["1"]}
