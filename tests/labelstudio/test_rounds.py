"""Taking prompts back at the real page, and prompts of two kinds about one object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backend.labelstudio.api import LabelStudio, Project
from tests.labelstudio.annotator import Annotator, mask_of
from tests.labelstudio.oracle import iou
from tests.labelstudio.pictures import upload_files
from tests.labelstudio.table import BOX, BRUSH, CONFIGS, POINT, assert_stored, made, shape

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


def test_a_click_that_was_undone_is_gone_at_the_next_click(label_studio: LabelStudio, ann: Annotator, task: int) -> None:
    ann.choose(".clicks", "cup", POINT)
    ann.point(80, 90)
    ann.choose(".clicks", "cup", POINT)
    (both,) = ann.point(240, 70)
    assert iou(mask_of(both), shape("large") | shape("blue")) > 0.95
    ann.undo()
    ann.choose(".clicks", "cup", POINT)
    (without,) = ann.point(85, 195)
    assert without["meta"]["text"] == ["2 clicks"]
    ann.accept()
    ann.submit()
    assert_stored(label_studio, task, ("cup", shape("large") | shape("green")))


def test_a_message_in_the_text_box_does_not_end_the_scribble_before_it(
    label_studio: LabelStudio, colour_backend: str, ann: Annotator, images: list[Path]
) -> None:
    """The page takes a message over at once and saves it with the draft, under the id that we gave it."""
    config = (
        (CONFIGS / "mixed.xml")
        .read_text("utf-8")
        .replace('<Label value="cup"/>', '<Label value="lamp"/><Label value="cup"/>', 1)
    )
    project = label_studio.create_project("live message", config)
    label_studio.attach_backend(project.id, colour_backend, "Maskloom")
    (task,) = upload_files(label_studio, project.id, images[:1])
    ann.open(project.id, task)
    ann.choose(".hints", "mine", BRUSH)
    ann.drag([(60, 90), (80, 100), (100, 90)])
    ann.until_saved()
    ann.choose(".clicks", "lamp", POINT)
    (message,) = ann.point(240, 70)
    assert "no tag of the labelling config draws regions labelled ['lamp']" in message["value"]["text"][0]
    ann.until_saved()
    (draft,) = label_studio.call("GET", f"/api/tasks/{task}/drafts")
    assert message["id"] in [region["id"] for region in draft["result"]]
    ann.choose(".clicks", "cup", POINT)
    (whole,) = ann.point(85, 195)
    assert whole["meta"]["text"] == ["1 click, 1 mark"]
    ann.accept()
    ann.submit()
    assert_stored(label_studio, task, ("cup", shape("large") | shape("green")))


def test_a_box_that_was_deleted_does_not_hold_back_the_click_inside_it(
    label_studio: LabelStudio, ann: Annotator, task: int
) -> None:
    ann.choose(".boxes", "plate", BOX)
    (upper,) = ann.box(190, 20, 290, 75)
    assert mask_of(upper).sum() < 0.7 * shape("blue").sum()
    ann.delete_region(0)
    assert ann.on_page() == []
    ann.until_saved()
    ann.choose(".clicks", "plate", POINT)
    (whole,) = ann.point(240, 60)
    assert whole["meta"]["text"] == ["1 click"]
    ann.accept()
    ann.submit()
    assert_stored(label_studio, task, ("plate", shape("blue")))


def test_a_box_takes_the_click_that_was_made_before_it(label_studio: LabelStudio, ann: Annotator, task: int) -> None:
    ann.choose(".clicks", "plate", POINT)
    (clicked,) = ann.point(240, 70)
    assert iou(mask_of(clicked), shape("blue")) > 0.95
    ann.choose(".boxes", "plate", BOX)
    (joined,) = ann.box(190, 20, 290, 75)
    assert joined["meta"]["text"] == ["1 click, 1 box"]
    ann.accept()
    ann.submit()
    upper = shape("blue") & (np.mgrid[:240, :320][0] < 75)
    assert_stored(label_studio, task, ("plate", upper), least=0.9)  # the mouse draws no exact box


def test_a_click_with_control_held_reaches_through_a_box_and_joins_it(
    label_studio: LabelStudio, ann: Annotator, task: int
) -> None:
    ann.choose(".boxes", "plate", BOX)
    (ground,) = ann.box(130, 20, 250, 130)
    assert not (mask_of(ground) & shape("blue")).any(), "the middle of the box is white"
    ann.choose(".clicks", "plate", POINT)
    (joined,) = ann.point(230, 60, hold="Control")
    assert joined["meta"]["text"] == ["1 click, 1 box"]
    ann.accept()
    ann.submit()
    left = shape("blue") & (np.mgrid[:240, :320][1] < 250)
    assert_stored(label_studio, task, ("plate", mask_of(ground) | left))
