"""What an export writes, opened by the readers that its users use, and what it says of what it leaves out."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from backend.export.gather import Scope
from backend.export.lines import LINES
from backend.export.run import Export, Format, Plan, Report
from backend.labelstudio.api import StoredPrediction
from backend.values.errors import RequestError, WriteError
from prompts.geometry import Size, polygon_mask
from tests.backend.bulk.runs import drawn, same
from tests.backend.export.projects import (
    CONFIG,
    HEIGHT,
    WIDTH,
    Pictures,
    ProjectDouble,
    annotation,
    every_shape,
    region,
    result,
    with_hole,
)

Masks = dict[str, list[tuple[str, np.ndarray]]]


def exported(double: Any, folder: Path, to: Format, scope: Scope | None = None, **more: Any) -> Report:
    pictures = more.pop("pictures", Pictures())
    report = Export(Plan(1, to, folder, scope or Scope(), **more), double, pictures).run()
    assert report is not None
    return report


def read_coco(folder: Path) -> Masks:
    coco = COCO(str(folder / "annotations.json"))
    names = {each["id"]: each["name"] for each in coco.loadCats(coco.getCatIds())}
    return {
        image["file_name"]: [
            (names[each["category_id"]], coco.annToMask(each).astype(bool))
            for each in coco.loadAnns(coco.getAnnIds(image["id"]))
        ]
        for image in coco.loadImgs(coco.getImgIds())
    }


def read_yolo(folder: Path) -> Masks:
    """YOLO's documented layout, read from ``data.yaml`` on: each label file beside its image, a class and x y pairs a line."""
    lines = (folder / "data.yaml").read_text().splitlines()
    head = dict(line.split(": ", 1) for line in lines if line[:1] != " " and ": " in line)
    names = {
        int(number): json.loads(name) for number, name in (line.strip().split(": ", 1) for line in lines if line[:1] == " ")
    }
    found: Masks = {}
    for side in {head["train"], head["val"]}:
        for path in sorted((Path(json.loads(head["path"])) / side).iterdir()):
            with Image.open(path) as picture:
                size = Size(picture.height, picture.width)
            text = Path(str(path.with_suffix(".txt")).replace("/images/", "/labels/")).read_text()
            rows = [line.split() for line in text.splitlines()]
            assert all(len(row) % 2 == 1 and len(row) >= 7 for row in rows)
            assert all(0 <= float(value) <= 1 for row in rows for value in row[1:])
            rings = [(names[int(row[0])], np.array(row[1:], float).reshape(-1, 2) * (size.width, size.height)) for row in rows]
            found[path.name] = [(name, polygon_mask(ring, size)) for name, ring in rings]
    return found


def assert_same_masks(found: Masks, truth: Masks) -> None:
    assert found.keys() == truth.keys()
    for name, masks in truth.items():
        assert [label for label, _ in found[name]] == [label for label, _ in masks]
        assert all(same(mask, other) for (_, mask), (_, other) in zip(found[name], masks, strict=True)), name


def imported(masks: Masks) -> ProjectDouble:
    """Another project whose annotations are brushes of what was exported."""
    double = ProjectDouble()
    for number, (name, regions) in enumerate(masks.items(), 1):
        drawn_again = [region(f"r{place}", label, mask) for place, (label, mask) in enumerate(regions)]
        double.add(number, annotation(number, *drawn_again), image=f"/data/upload/9/{name}")
    return double


def test_every_shape_is_exported_as_coco_with_holes_and_comes_back_the_same(tmp_path: Path) -> None:
    report = exported(every_shape(14), tmp_path / "one", Format.COCO)
    first = read_coco(tmp_path / "one")
    assert (report.exported, report.images, report.left_out) == (14, 14, [])
    assert [label for label, _ in first["6.png"]] == ["red", "blue"]
    assert same(first["6.png"][0][1], with_hole(drawn(6).shapes["red"]))
    exported(imported(first), tmp_path / "two", Format.COCO)
    assert_same_masks(read_coco(tmp_path / "two"), first)


def test_yolo_is_read_as_its_format_says_and_comes_back_the_same(tmp_path: Path) -> None:
    exported(every_shape(14), tmp_path / "coco", Format.COCO)
    exported(every_shape(14), tmp_path / "one", Format.YOLO)
    first = read_yolo(tmp_path / "one")
    assert_same_masks(first, read_coco(tmp_path / "coco"))
    exported(imported(first), tmp_path / "two", Format.YOLO)
    assert_same_masks(read_yolo(tmp_path / "two"), first)


@pytest.mark.parametrize("kind", [Format.SEMANTIC, Format.PALETTE, Format.INSTANCE])
def test_pngs_hold_the_numbers_of_labels_or_regions(tmp_path: Path, kind: Format) -> None:
    exported(every_shape(8), tmp_path, kind)
    labels = json.loads((tmp_path / "labels.json").read_text())
    assert labels == {"red": 1, "blue": 2}
    coco = read_coco_of(every_shape(8), tmp_path / "coco")
    numbers = json.loads((tmp_path / "instances.json").read_text()) if kind is Format.INSTANCE else {}
    for name, masks in coco.items():
        with Image.open(tmp_path / "masks" / name) as picture:
            assert picture.mode == ("P" if kind is Format.PALETTE else "L")
            values = np.asarray(picture)
        ordered = sorted(masks, key=lambda each: -each[1].sum())
        truth = np.zeros((HEIGHT, WIDTH), np.uint8)
        for place, (label, mask) in enumerate(ordered, 1):
            truth[mask] = place if kind is Format.INSTANCE else labels[label]
        assert same(values, truth)
        if kind is Format.INSTANCE:
            assert numbers[name] == {str(place): label for place, (label, _) in enumerate(ordered, 1)}


def read_coco_of(double: ProjectDouble, folder: Path) -> Masks:
    exported(double, folder, Format.COCO)
    return read_coco(folder)


def test_label_studio_reads_its_own_json_without_what_was_left_out(tmp_path: Path) -> None:
    double = ProjectDouble()
    outside = result("o", "red", "rectangle", {"x": 200, "y": 200, "width": 5, "height": 5, "rotation": 0})
    note = {"id": "n", "type": "choices", "from_name": "c", "to_name": "image", "value": {"choices": ["fine"]}}
    double.add(1, annotation(5, region("a", "red", drawn(1).shapes["red"]), outside, note))
    exported(double, tmp_path, Format.JSON)
    (task,) = json.loads((tmp_path / "tasks.json").read_text())
    assert task["data"] == {"image": "/data/upload/1/1.png"}
    assert [each["id"] for each in task["annotations"][0]["result"]] == ["a", "n"]


def test_coco_has_crowds_a_row_for_an_image_without_regions_and_results_that_pycocotools_loads(tmp_path: Path) -> None:
    double = ProjectDouble()
    mask = drawn(1).shapes["red"]
    guess = StoredPrediction(3, "v1", 0.5, [region("p", "red", mask, score=0.5)])
    double.add(1, annotation(5, region("a", "red", mask)), predictions=[guess])
    double.add(2, annotation(6))
    exported(double, tmp_path, Format.COCO, Scope(predictions="v1"), crowds=frozenset({"red"}))
    coco = COCO(str(tmp_path / "annotations.json"))
    (row,) = coco.loadAnns(coco.getAnnIds())
    assert (row["iscrowd"], row["area"]) == (1, int(mask.sum()))
    assert {image["file_name"]: image["height"] for image in coco.loadImgs(coco.getImgIds())} == {"1.png": 48, "2.png": 48}
    (found,) = coco.loadRes(str(tmp_path / "predictions.json")).loadAnns([1])
    assert (found["score"], found["category_id"]) == (0.5, 1)


def test_an_empty_project_is_told(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"project 1 \(double\) has no tasks; there is nothing to export"):
        exported(ProjectDouble(), tmp_path, Format.COCO)


def test_labels_of_an_older_config_are_numbered_after_todays_and_told(tmp_path: Path) -> None:
    double = ProjectDouble(config=CONFIG)
    mask = drawn(1).shapes["red"]
    double.add(1, annotation(5, region("a", "green", mask), region("b", "blue", mask, to_name="picture", from_name="pencil")))
    report = exported(double, tmp_path, Format.COCO)
    assert json.loads((tmp_path / "annotations.json").read_text())["categories"] == [
        {"id": 1, "name": "red"}, {"id": 2, "name": "blue"}, {"id": 3, "name": "green"},
    ]  # fmt: skip
    assert report.notes == ["today's labelling config has no label green; they are numbered after its own"]
    assert report.regions == {"green": 1, "blue": 1}


def test_a_task_whose_image_is_gone_keeps_its_masks_and_is_left_out_only_where_files_are_wanted(tmp_path: Path) -> None:
    double, gone = every_shape(3), Pictures(gone=frozenset({"/data/upload/1/2.png"}))
    assert exported(double, tmp_path / "coco", Format.COCO, pictures=gone).images == 3
    report = exported(double, tmp_path / "yolo", Format.YOLO, pictures=gone)
    assert report.images == 2
    assert [(each.task, "there is no such file" in each.reason) for each in report.left_out] == [(2, True)]
    assert read_yolo(tmp_path / "yolo").keys() == {"1.png", "3.png"}


def test_two_tasks_with_one_image_are_told_apart_and_lie_on_the_same_side(tmp_path: Path) -> None:
    double = ProjectDouble()
    for task, url in ((1, "/data/upload/1/a1.png"), (2, "/data/upload/1/a1.png"), (3, "/data/upload/2/a1.jpg")):
        double.add(task, annotation(task, region("a", "red", drawn(task).shapes["red"])), image=url)
    report = exported(double, tmp_path, Format.YOLO, val_share=0.5)
    found = read_yolo(tmp_path)
    assert found.keys() == {"a1-1.png", "a1-2.png", "a1-3.jpg"}
    assert same(found["a1-2.png"][0][1], drawn(2).shapes["red"])
    assert report.notes == ["tasks 1, 2 show the same image; each is exported"]
    sides = {path.name: path.parent.name for path in tmp_path.glob("images/*/*")}
    assert sides["a1-1.png"] == sides["a1-2.png"]


def test_regions_outside_the_image_without_label_or_torn_are_left_out_with_a_reason(tmp_path: Path) -> None:
    double = ProjectDouble()
    good = region("good", "red", drawn(1).shapes["red"])
    bad = [
        result("outside", "red", "rectangle", {"x": 150, "y": 0, "width": 10, "height": 10, "rotation": 0}),
        {**good, "id": "nameless", "value": {**good["value"], "brushlabels": []}},
        {**good, "id": "torn", "value": {**good["value"], "rle": good["value"]["rle"][:30]}},
        result("spot", "red", "keypoint", {"x": 5, "y": 5, "width": 1}),
    ]
    double.add(1, annotation(5, good, *bad))
    report = exported(double, tmp_path, Format.COCO)
    assert report.regions == {"red": 1}
    told = {each.region: each.reason for each in report.left_out}
    assert told.keys() == {"outside", "nameless", "torn", "spot"}
    assert "covers no pixel" in told["outside"]
    assert "no label" in told["nameless"]
    assert json.loads((tmp_path / "report.json").read_text())["regions"] == {"red": 1}


@contextmanager
def disk_of(most_bytes: int) -> Iterator[None]:
    """No file may become larger, which the system answers as it does a full disk."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_is_full_half_way_is_told_and_the_same_command_goes_on(tmp_path: Path) -> None:
    double = every_shape(60)
    with disk_of(20_000), pytest.raises(WriteError, match=r"cannot write .*make room.*the same command again: what was read"):
        exported(double, tmp_path, Format.COCO)
    read = (tmp_path / LINES).read_bytes().count(b"\n") - 1
    assert 20 < read < 60
    double.asked.clear()
    exported(double, tmp_path, Format.COCO)
    assert sum(map(len, double.asked)) == 60 - read
    assert len(read_coco(tmp_path)) == 60
    assert not (tmp_path / LINES).exists()


def test_a_stopped_export_goes_on_and_reads_again_what_changed_meanwhile(tmp_path: Path) -> None:
    double = every_shape(50)
    plan = Plan(1, Format.COCO, tmp_path)
    job = Export(plan, double, Pictures())  # type: ignore[arg-type]
    job.watch = lambda done, total: job.stop.set() if done >= 20 else None
    assert job.run() is None
    assert not (tmp_path / "annotations.json").exists()
    double.asked.clear()
    double.add(1, annotation(10, region("new", "blue", drawn(30).shapes["blue"])))
    double.tasks[1]["updated"] = "later"
    assert Export(plan, double, Pictures()).run() is not None  # type: ignore[arg-type]
    assert sorted(task for asked in double.asked for task in asked) == [1, *range(21, 51)]
    ((label, mask),) = read_coco(tmp_path)["1.png"]
    assert (label, same(mask, drawn(30).shapes["blue"])) == ("blue", True)


def test_lines_of_another_command_are_begun_anew(tmp_path: Path) -> None:
    double = every_shape(30)
    job = Export(Plan(1, Format.COCO, tmp_path), double, Pictures())  # type: ignore[arg-type]
    job.watch = lambda done, total: job.stop.set()
    job.run()
    double.asked.clear()
    report = Export(replace(job.plan, scope=Scope(labels=frozenset({"red"}))), double, Pictures()).run()  # type: ignore[arg-type]
    assert report is not None
    assert (report.regions, sum(map(len, double.asked))) == ({"red": 30}, 30)


def test_a_format_that_yolo_does_not_read_becomes_png_and_a_deleted_task_is_told(tmp_path: Path) -> None:
    double = ProjectDouble()
    double.add(1, annotation(1, region("a", "red", drawn(1).shapes["red"])), image="/data/upload/1/1.gif")
    double.add(2, annotation(2, region("a", "red", drawn(1).shapes["red"])))
    double.tasks[2]["deleted"] = True
    report = exported(double, tmp_path, Format.YOLO)
    assert read_yolo(tmp_path).keys() == {"1.png"}
    assert [(each.task, each.reason) for each in report.left_out] == [(2, "it was deleted meanwhile")]
