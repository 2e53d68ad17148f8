"""Every way to prompt, at the real page: each test asserts the masks that Label Studio stores."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from backend.labelstudio.api import LabelStudio, Project, send
from tests.labelstudio.annotator import Annotator, mask_of
from tests.labelstudio.editor import IMAGE, SELECTED
from tests.labelstudio.oracle import iou
from tests.labelstudio.pictures import upload_files
from tests.labelstudio.table import BOX, BRUSH, POINT, POLYGON, assert_stored, made, shape, stored

pytestmark = [pytest.mark.studio, pytest.mark.timeout(1200)]


@pytest.fixture
def project(label_studio: LabelStudio, colour_backend: str) -> Project:
    """A project for each test: what is accepted in one is drawn on the next task of it before anybody asks."""
    return made(label_studio, colour_backend, "mixed")


@pytest.fixture
def task(label_studio: LabelStudio, project: Project, images: list[Path], ann: Annotator) -> int:
    """A new task with the table, open in the page."""
    (number,) = upload_files(label_studio, project.id, images[:1])
    ann.open(project.id, number)
    return number


def test_a_click_and_one_against_then_a_rejected_suggestion_then_a_box_and_a_click_beside_it(
    label_studio: LabelStudio, ann: Annotator, task: int
) -> None:
    ann.choose(".clicks", "cup", POINT)
    ann.point(80, 90)
    ann.choose(".clicks", "cup", POINT)
    both = ann.point(240, 70)
    assert iou(mask_of(both[0]), shape("large") | shape("blue")) > 0.95
    ann.choose(".clicks", "cup", POINT)
    ann.point(250, 80, hold="Alt")
    ann.accept()

    ann.choose(".clicks", "plate", POINT)
    ann.point(180, 190)
    ann.reject()
    assert len(ann.on_page()) == 1

    ann.choose(".boxes", "plate", BOX)
    ann.box(190, 20, 290, 75)
    ann.choose(".clicks", "plate", POINT)
    joined = ann.point(310, 150, hold="Alt")
    assert joined[0]["meta"]["text"] == ["1 click against, 1 box"]
    ann.accept()
    ann.submit()
    upper = shape("blue") & (np.mgrid[:240, :320][0] < 75)
    assert_stored(label_studio, task, ("cup", shape("large")), ("plate", upper), least=0.9)  # the mouse draws no exact box


def test_a_scribble_and_this_then_an_outline_and_this(label_studio: LabelStudio, ann: Annotator, task: int) -> None:
    ann.choose(".hints", "mine", BRUSH)
    ann.drag([(60, 90), (80, 100), (100, 90)])
    ann.until_saved()
    (scribbled,) = ann.say("this, cup")
    assert iou(mask_of(scribbled), shape("large")) > 0.95
    ann.accept()
    ann.choose(".outlines", "plate", POLYGON)
    ann.outline([(55, 165), (115, 165), (115, 225), (55, 225)])
    ann.until_saved()
    (outlined,) = ann.say("this")
    assert outlined["meta"]["text"] == ["1 mark"], "the scribble was done with when its mask was accepted"
    ann.accept()
    ann.submit()
    assert_stored(label_studio, task, ("cup", shape("large")), ("plate", shape("green")))


def test_an_example_finds_its_like_on_the_same_image_and_what_was_accepted_is_found_on_another_task_unasked(
    label_studio: LabelStudio, ann: Annotator, project: Project, task: int, images: list[Path]
) -> None:
    ann.choose(".boxes", "like this", BOX)
    alike = ann.box(65, 75, 95, 105)
    assert sorted(int(mask_of(each).sum()) for each in alike) == sorted(int(shape(n).sum()) for n in ("large", "small"))
    ann.reject()
    ann.choose(".clicks", "plate", POINT)
    ann.point(85, 195)
    ann.accept()
    ann.submit()

    (other,) = upload_files(label_studio, project.id, images[1:2])
    ann.open(project.id, other)
    (found,) = ann.say("like plate")
    assert iou(mask_of(found), shape("green")[:, ::-1]) > 0.95
    ann.reject()  # memory had drawn it before it was asked for
    ann.submit()
    assert_stored(label_studio, other, ("plate", shape("green")[:, ::-1]))


def test_a_photo_that_is_stored_on_its_side_is_segmented_upright(
    label_studio: LabelStudio, ann: Annotator, project: Project, images: list[Path]
) -> None:
    (task,) = upload_files(label_studio, project.id, images[2:])
    ann.open(project.id, task)
    ann.choose(".clicks", "cup", POINT)
    ann.point(240, 70)
    ann.accept()
    ann.submit()
    assert_stored(label_studio, task, ("cup", shape("blue")))


def test_what_is_exported_is_what_was_accepted(
    label_studio: LabelStudio, ann: Annotator, project: Project, images: list[Path]
) -> None:
    """The masks of submitted tasks in Label Studio's own exports, from the second on beside what memory drew before."""
    for x, y in ((240, 70), (80, 90), (85, 195)):
        (number,) = upload_files(label_studio, project.id, images[:1])
        ann.open(project.id, number)
        ann.choose(".clicks", "cup", POINT)
        ann.point(x, y)
        ann.accept()
        ann.submit()
    rows = exported(label_studio, project, "JSON")
    annotated = {row["id"]: row for row in json.loads(rows) if row["annotations"]}
    assert len(annotated) == 3
    with zipfile.ZipFile(io.BytesIO(exported(label_studio, project, "BRUSH_TO_PNG"))) as archive:
        pictures = {name: np.asarray(Image.open(io.BytesIO(archive.read(name)))) > 0 for name in archive.namelist()}
    for number in annotated:
        for label, mask in stored(label_studio, number):
            alike = [picture for name, picture in pictures.items() if f"task-{number}-" in name and f"-{label}-" in name]
            assert any(picture.shape == mask.shape and np.array_equal(picture, mask) for picture in alike), (number, label)


def exported(label_studio: LabelStudio, project: Project, kind: str) -> bytes:
    """What Label Studio's export of the project's submitted tasks holds."""
    path, options = f"/api/projects/{project.id}/export", {"exportType": kind, "download_all_tasks": "false"}
    return send(label_studio._http, "GET", path, params=options).content


def test_the_second_page_of_a_task_is_segmented_and_stored_as_the_second_page(
    label_studio: LabelStudio, colour_backend: str, project: Project, ann: Annotator, images: list[Path]
) -> None:
    uploads = upload_files(label_studio, project.id, images[:2])
    addresses = [label_studio.task(number).data["image"] for number in uploads]
    pages = made(label_studio, colour_backend, "pages")
    (task,) = label_studio.import_tasks(pages.id, [{"images": addresses}])
    ann.open(pages.id, task)
    ann.page.evaluate(f"() => {SELECTED}.names.get('image').setCurrentImage(1)")
    ann.page.wait_for_function(f"() => {IMAGE}.currentImage === 1")
    ann.page.wait_for_timeout(1000)
    ann.choose("body", "plate", POINT)
    (suggested,) = ann.point(80, 70)
    assert suggested["item_index"] == 1
    ann.accept()
    ann.submit()
    (annotation,) = label_studio.task(task).annotations
    assert [region["item_index"] for region in annotation["result"] if region["type"] == "brushlabels"] == [1]
    assert_stored(label_studio, task, ("plate", shape("blue")[:, ::-1]))


def test_one_list_of_labels_for_several_tools(
    label_studio: LabelStudio, colour_backend: str, ann: Annotator, images: list[Path]
) -> None:
    project = made(label_studio, colour_backend, "labels")
    (task,) = upload_files(label_studio, project.id, images[:1])
    ann.open(project.id, task)
    ann.choose("body", "cup", POINT)
    ann.point(80, 90)
    ann.accept()
    ann.submit()
    assert_stored(label_studio, task, ("cup", shape("large")))


def test_accepted_polygons_are_exported_as_coco(
    label_studio: LabelStudio, colour_backend: str, ann: Annotator, images: list[Path]
) -> None:
    project = made(label_studio, colour_backend, "polygons")
    (task,) = upload_files(label_studio, project.id, images[:1])
    ann.open(project.id, task)
    ann.choose("body", "plate", BOX)
    ann.box(190, 20, 290, 120)
    ann.accept()
    ann.submit()
    with zipfile.ZipFile(io.BytesIO(exported(label_studio, project, "COCO"))) as archive:
        table_of = json.loads(archive.read("result.json"))
    (annotation,) = table_of["annotations"]
    assert [each["name"] for each in table_of["categories"] if each["id"] == annotation["category_id"]] == ["plate"]
    mask = coco.decode(coco.frPyObjects(annotation["segmentation"], 240, 320)).any(axis=2)
    assert iou(mask, shape("blue")) > 0.95
