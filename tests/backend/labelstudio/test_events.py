"""Webhooks that a real Label Studio 1.23.2 sent, and anything else."""

from __future__ import annotations

import json
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.labelstudio import events
from backend.labelstudio.events import Accepted, Gone, TrainingAsked, read_event
from backend.values.errors import RequestError
from tests.backend.labelstudio.captured import point
from tests.backend.labelstudio.request.test_examples import BOX, ELLIPSE, SQUARE, STROKE, TRIANGLE, accepted, region
from tests.backend.labelstudio.request.test_request import junk, places

FOLDER = Path(__file__).parent / "payloads" / "events"
NAMES = sorted(file.stem for file in FOLDER.glob("*.json"))


def event(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))["body"]


def created(*regions: dict[str, Any], config: str | None = None, **data: Any) -> Accepted:
    """The captured event with other regions, whose images are 200 x 100."""
    body = event("annotation_created")
    body["annotation"]["result"] = [{"original_width": 200, "original_height": 100, **each} for each in regions]
    body["project"]["label_config"] = config or body["project"]["label_config"]
    body["task"]["data"].update(data)
    (found,) = read_event(body)
    assert isinstance(found, Accepted)
    return found


def test_an_event_names_its_project_as_requests_do() -> None:
    """Number and second: ``"1.1795211212"`` in the body of /predict is this project."""
    told = event("annotation_created")
    told["project"]["created_at"] = "2026-11-20T21:46:52.602861Z"
    (found,) = read_event(told)
    assert found.project == "1.1795211212"


@pytest.mark.parametrize("name", ["annotation_created", "annotation_updated"])
def test_a_submitted_rectangle_is_an_example_of_its_label(name: str) -> None:
    (found,) = read_event(event(name))
    assert isinstance(found, Accepted)
    assert (found.project, found.annotation) == ("1", "1")
    (example,) = found.examples
    assert (example.task, example.region, example.label) == ("1", "r1", "Cat")
    assert example.image_url == "/data/upload/1/de430049-shapes.png"
    assert example.mask.shape == (480, 640)
    rows, columns = np.nonzero(example.mask)
    assert (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1) == (64, 192, 48, 144)


def test_deleted_annotations_and_tasks_are_told_by_number() -> None:
    assert [type(each) for name in ("annotations_deleted", "tasks_deleted") for each in read_event(event(name))] == [Gone, Gone]
    (annotations,) = read_event(event("annotations_deleted"))
    (tasks,) = read_event(event("tasks_deleted"))
    assert isinstance(annotations, Gone)
    assert isinstance(tasks, Gone)
    assert annotations.annotations == tuple(str(each["id"]) for each in event("annotations_deleted")["annotations"])
    assert tasks.tasks == tuple(str(each["id"]) for each in event("tasks_deleted")["tasks"])


@pytest.mark.parametrize("name", ["tasks_created", "project_updated"])
def test_other_events_mean_nothing_to_the_memory(name: str) -> None:
    assert read_event(event(name)) == []


def test_start_training_asks_for_the_training_of_its_project() -> None:
    started = event("start_training")
    assert read_event(started) == [TrainingAsked(str(started["project"]["id"]))]


def test_every_kind_of_region_with_an_area_is_remembered_and_points_are_not() -> None:
    drawn = [region("Brush", "Cat", STROKE, "a"), region("Polygon", "Dog", TRIANGLE, "b"), accepted(), point()]
    config = event("annotation_created")["project"]["label_config"].replace('"poly"', '"polygon"')
    found = created(*drawn, config=config)
    assert [(each.region, each.label) for each in found.examples] == [("a", "Cat"), ("b", "Dog"), ("mk_0123456789", "Cat")]
    assert np.array_equal(found.examples[2].mask, SQUARE)


def test_references_are_remembered_without_a_class_and_hints_are_not() -> None:
    config = """<View><Image name="image" value="$image"/><EllipseLabels name="ellipse" toName="image">
        <Label value="like this" maskloom="reference"/><Label value="this" maskloom="for"/></EllipseLabels></View>"""
    found = created(region("Ellipse", "like this", ELLIPSE, "a"), region("Ellipse", "this", ELLIPSE, "b"), config=config)
    assert [(each.region, each.label) for each in found.examples] == [("a", None)]


@pytest.mark.parametrize(
    ("told", "task"),
    [({"task": 2}, "2"), ({"task": {"id": 3, "data": {"image": "3.png"}}}, "3"), ({"task": 9}, None), ({}, None)],
)
def test_of_many_annotations_at_once_each_has_the_image_of_its_task(told: dict[str, Any], task: str | None) -> None:
    """Label Studio names several tasks and annotations in one event; a mask must not be remembered on another task's image."""
    body = event("annotation_created")
    annotation = {key: value for key, value in body["annotation"].items() if key != "task"}
    several = [{"id": number, "data": {"image": f"{number}.png"}} for number in (1, 2)]
    (found,) = read_event({**body, "action": "ANNOTATIONS_CREATED", "annotation": [{**annotation, **told}], "task": several})
    assert isinstance(found, Accepted)
    assert [(each.task, each.image_url) for each in found.examples] == ([(task, f"{task}.png")] if task else [])


def test_a_label_of_the_task_s_data_is_a_class() -> None:
    config = """<View><Image name="image" value="$image"/><RectangleLabels name="rectangle" toName="image" value="$names"/>
        </View>"""
    assert [each.label for each in created(region("Rectangle", "Cow", BOX), config=config, names=["Cow"]).examples] == ["Cow"]
    assert created(region("Rectangle", "Cow", BOX), config=config, names=["Dog"]).examples == ()


def test_a_region_on_a_later_page_knows_its_image() -> None:
    config = """<View><Image name="image" valueList="$pages"/><RectangleLabels name="rectangle" toName="image">
        <Label value="Cat"/></RectangleLabels></View>"""
    regions = [region("Rectangle", "Cat", BOX, str(page), item_index=page) for page in (1, 5)]
    found = created(*regions, config=config, pages=["0.png", "1.png"])
    assert [each.image_url for each in found.examples] == ["1.png"]


def test_a_broken_region_costs_only_itself_and_a_skipped_task_shows_nothing() -> None:
    good, broken = region("Brush", "Cat", STROKE, "a"), region("Brush", "Cat", {"rle": [1, 2]}, "b")
    huge = region("Brush", "Cat", STROKE, "c", original_width=100_000, original_height=100_000)
    assert [each.region for each in created(broken, good, huge).examples] == ["a"]
    body = event("annotation_created")
    body["annotation"]["was_cancelled"] = True
    (found,) = read_event(body)
    assert isinstance(found, Accepted)
    assert found.examples == ()


@pytest.mark.parametrize("order", [1, -1])
def test_a_mask_that_was_accepted_while_a_label_was_selected_is_one_example_and_no_complaint(
    order: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Label Studio stores it a second time, as a rectangle or a point that holds run lengths."""
    mask = region("Brush", "Cat", {**STROKE, "format": "rle"}, "a")
    again = region("Rectangle", "Cat", {**STROKE, "format": "rle"}, "a")
    assert [each.region for each in created(*[mask, again][::order]).examples] == ["a"]
    assert "not remembered" not in caplog.text
    assert created(again).examples == ()
    assert "not remembered" in caplog.text


@given(st.sampled_from(NAMES), st.data())
def test_whatever_is_wrong_with_an_event_it_is_read_or_refused(name: str, data: st.DataObject) -> None:
    body = event(name)
    for _ in range(data.draw(st.integers(1, 4))):
        holder, key = data.draw(st.sampled_from(list(places(body))))
        holder[key] = data.draw(junk)
    with suppress(RequestError):
        read_event(body)


@given(junk)
def test_any_body_is_read_or_refused(body: Any) -> None:
    with suppress(RequestError):
        read_event(body)


def on_a_large_image(number: int) -> list[dict[str, Any]]:
    """Rectangles that cover most of an image of 100 megapixels."""
    value = {"x": 1, "y": 1, "width": 90, "height": 90, "rectanglelabels": ["Cat"]}
    (drawn,) = event("annotation_created")["annotation"]["result"]
    here = {**drawn, "original_width": 10_000, "original_height": 10_000, "value": value}
    return [{**here, "id": f"r{each}"} for each in range(number)]


def test_regions_of_a_huge_image_cost_what_their_outlines_do() -> None:
    """Seven kilobytes took gigabytes, and then a minute."""
    tracemalloc.start()
    started = time.perf_counter()
    found = created(*on_a_large_image(30))
    assert time.perf_counter() - started < 3
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert [example.runs.area for example in found.examples] == [9000 * 9000] * 30


def test_an_annotation_is_about_so_many_pixels_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST_PIXELS_TOGETHER", 250_000_000)
    assert [example.region for example in created(*on_a_large_image(5)).examples] == ["r0", "r1"]
