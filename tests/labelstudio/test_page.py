"""An annotator at the real page: sees the pre-annotation, clicks, sees the mask, accepts, submits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from backend.demo.filling import find_examples
from backend.demo.label_studio import Studio
from backend.labelstudio.api import LabelStudio
from tests.labelstudio.conftest import logged_in, new_project
from tests.labelstudio.editor import Editor
from tests.labelstudio.oracle import decode, iou
from tests.labelstudio.pictures import BLUE_CENTRE, DISC_CENTRE, GREEN_CENTRE, save, three_shapes, upload_files

pytestmark = [pytest.mark.studio, pytest.mark.timeout(1200)]

GREEN_IN_PICTURE = (0, 128, 0)


@pytest.fixture
def editor(browser: Browser, studio: Studio) -> Iterator[Editor]:
    """Who has never been here, so that the page has no tool selected."""
    with logged_in(browser, studio) as annotator:
        yield annotator


def stored_by_hand(label_studio: LabelStudio, task_id: int) -> dict[str, Any]:
    """The one brush region of the submitted annotation that is not from the pre-annotation."""
    (annotation,) = label_studio.task(task_id).annotations
    (region,) = [region for region in annotation["result"] if region["type"] == "brushlabels" and region["origin"] == "manual"]
    return dict(region)


def test_what_is_clicked_accepted_and_submitted_is_the_mask_that_was_sent_and_the_true_shape(
    label_studio: LabelStudio, colour_backend: str, editor: Editor, tmp_path: Path
) -> None:
    picture = three_shapes()
    project = new_project(label_studio, ["blue square", "red disc", "thing"], colour_backend)
    (task,) = upload_files(label_studio, project.id, [save(picture.image, tmp_path / "shapes.png")])
    label_studio.retrieve_predictions(project.id, [task])
    (prediction,) = label_studio.call("GET", "/api/predictions/", params={"task": task})
    assert prediction["result"], "Label Studio has stored the pre-annotation"

    editor.open_task(project.id, task)
    assert sorted(editor.labels_on_image()) == ["blue square", "red disc"]
    assert editor.colour_at(*DISC_CENTRE) != (255, 0, 0), "the pre-annotated disc has no mask over it"
    assert editor.colour_at(*BLUE_CENTRE) != (0, 0, 255), "the pre-annotated square has no mask over it"
    assert editor.colour_at(*GREEN_CENTRE) == GREEN_IN_PICTURE

    editor.auto_annotate()
    editor.choose_smart_point("thing")
    beside = (GREEN_CENTRE[0] + 15, GREEN_CENTRE[1] + 15)
    answer = editor.click(*GREEN_CENTRE)
    assert editor.colour_at(*beside) != GREEN_IN_PICTURE, "the suggested mask is not to be seen"
    editor.accept()
    editor.submit()

    (sent,) = answer["result"]
    stored = stored_by_hand(label_studio, task)
    assert stored["value"]["brushlabels"] == ["thing"]
    assert iou(decode(stored), decode(sent)) > 0.99
    assert iou(decode(stored), picture.shapes["green square"]) > 0.99
    by_label = {
        region["value"]["brushlabels"][0]: decode(region)
        for region in label_studio.task(task).annotations[0]["result"]
        if region["type"] == "brushlabels" and region["origin"] == "prediction"
    }
    assert iou(by_label["red disc"], picture.shapes["red disc"]) > 0.99
    assert iou(by_label["blue square"], picture.shapes["blue square"]) > 0.99


def test_the_default_engine_pre_annotates_a_photo_and_answers_a_click(
    label_studio: LabelStudio, default_backend: str, editor: Editor
) -> None:
    project = new_project(label_studio, ["person", "cat"], default_backend)
    (task,) = upload_files(label_studio, project.id, find_examples(("astronaut.png",)))

    editor.open_task(project.id, task)  # nobody asked for predictions before: opening the task does
    assert "person" in editor.labels_on_image()

    editor.auto_annotate()
    editor.choose_smart_point("person")
    editor.page.keyboard.down("Control")  # the click reaches through a mask that may lie there
    answer = editor.click(220, 330)
    editor.page.keyboard.up("Control")
    editor.accept()
    editor.submit()

    sent, stored = decode(answer["result"][0]), decode(stored_by_hand(label_studio, task))
    assert stored.shape == (512, 512)
    assert stored[330, 220], "the mask does not hold the pixel that was clicked"
    assert iou(stored, sent) > 0.99
