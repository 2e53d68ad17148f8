"""What a task already holds, from captured tasks and from broken ones."""

from __future__ import annotations

from typing import Any

import pytest

from backend.labelstudio.request.draft import annotator, saved_ids, submitted_ids
from tests.backend.labelstudio.captured import body


def captured_task(name: str) -> dict[str, Any]:
    return body(name)["tasks"][0]


def test_regions_of_annotations_and_predictions_are_submitted_and_those_of_drafts_are_not() -> None:
    task = captured_task("interactive_with_annotation_and_draft")
    task["predictions"] = [{"result": [{"id": "p1"}]}]
    task["drafts"][0]["result"].append({"id": "d1"})
    assert submitted_ids(task) == {"r1", "p1"}
    assert saved_ids(task) == {"r1", "d1"}


def test_all_regions_of_a_draft_are_known() -> None:
    assert saved_ids(captured_task("interactive_rectangle_with_existing_plain_rectangle")) == {"r1", "ah2TgBWJoo"}


def test_the_annotator_is_whoever_s_draft_came_along() -> None:
    assert annotator(captured_task("interactive_rectangle")) == "admin@example.com"
    assert annotator(captured_task("interactive_exif6")) == ""


@pytest.mark.parametrize(
    "broken", [None, 5, "x", {}, [None], [{"result": None}], [{"result": [None, {"id": 5}, {}]}], [{"user": None}]]
)
def test_a_broken_task_holds_nothing(broken: object) -> None:
    task = {"annotations": broken, "predictions": broken, "drafts": broken}
    assert (submitted_ids(task), saved_ids(task), annotator(task)) == (frozenset(), frozenset(), "")
