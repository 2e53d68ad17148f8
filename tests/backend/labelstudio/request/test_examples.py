"""Regions with a role: what the draft of a task says about the object that is prompted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backend.labelstudio.request.context import masks_of
from backend.labelstudio.request.request import InteractionRequest, read_predict
from backend.labelstudio.shapes import RegionMark, painted
from backend.labelstudio.shapes import painted as rle
from backend.labelstudio.tags import Role
from backend.values.errors import RequestError
from backend.values.masks import RunLengths
from prompts.geometry import Size
from prompts.kinds import BoxPrompt, MaskPrompt, PointPrompt, PolygonPrompt, ScribblePrompt
from tests.backend.labelstudio.captured import only_task, point, prompted, text

SIZE = Size(100, 200)
TOOLS = ("Brush", "Polygon", "Ellipse", "Bitmask", "Vector", "Rectangle", "KeyPoint")
HINTS = "".join(
    f"""<{tool}Labels name="{tool.lower()}" toName="image"><Label value="Cat"/><Label value="this" maskloom="for"/>
    <Label value="not this" maskloom="against"/><Label value="mask" maskloom="refine"/><Label value="ref" maskloom="reference"/>
    <Label value="unref" maskloom="unlike"/><Label value="note" maskloom="ignore"/></{tool}Labels>"""
    for tool in TOOLS
)
CONFIG = f"""<View><Image name="image" value="$image"/><TextArea name="prompt" toName="image"/>{HINTS}
    <KeyPointLabels name="kp" toName="image"><Label value="Cat"/><Label value="Dog"/></KeyPointLabels>
    <PolygonLabels name="outline" toName="image" maskloom="for"><Label value="Cat"/><Label value="Dog"/></PolygonLabels>
    </View>"""

STROKE = {"format": "rle", "touches": [{"type": "add", "relativePoints": [25, 50, 75, 50], "relativeStrokeWidth": 5}]}
TRIANGLE = {"points": [[10, 10], [60, 10], [10, 90]], "closed": True}
ELLIPSE = {"x": 50, "y": 50, "radiusX": 10, "radiusY": 20, "rotation": 0}
BOX = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0}
SQUARE = np.zeros((100, 200), np.bool_)
SQUARE[20:40, 30:70] = True


def region(tool: str, label: str, value: dict[str, Any], name: str = "r", **more: Any) -> dict[str, Any]:
    """A region drawn by hand with one of the tools."""
    kind = f"{tool.lower()}labels"
    head = {"id": name, "type": kind, "from_name": tool.lower(), "to_name": "image", "origin": "manual"}
    return {**head, "value": {**value, kind: [label]}, **more}


def accepted(name: str = "mk_0123456789") -> dict[str, Any]:
    return region("Brush", "Cat", {"format": "rle", "rle": rle.encode(SQUARE)}, name)


def with_draft(*regions: dict[str, Any], trigger: dict[str, Any] | None = None, **task: Any) -> InteractionRequest:
    """The request that a click, or another trigger, makes while a draft holds these regions."""
    drafts = [{"user": "ann@example.com", "updated_at": "2026-11-20T22:35:42Z", "result": list(regions)}]
    return only_task(prompted(trigger or point(), config=CONFIG, drafts=drafts, **task))


def test_a_scribble_for_and_one_against_are_read_with_the_click() -> None:
    task = with_draft(region("Brush", "this", STROKE, "a"), region("Brush", "not this", STROKE, "b"))
    click, for_it, against = task.prompts(SIZE).prompts
    assert isinstance(click, PointPrompt)
    assert isinstance(for_it, ScribblePrompt)
    assert isinstance(against, ScribblePrompt)
    assert (for_it.positive, against.positive) == (True, False)
    assert for_it.mask[50, 100]
    assert 1000 < for_it.mask.sum() < 1100
    assert task.armed_label == "Cat"


def test_typing_this_asks_for_what_is_marked() -> None:
    task = with_draft(region("Brush", "this", STROKE), trigger=text("this"))
    (scribble,) = task.prompts(SIZE).prompts
    assert isinstance(scribble, ScribblePrompt)
    assert task.armed_label is None


def test_a_polygon_and_an_ellipse_for_an_object_surround_it_and_a_rectangle_is_its_box() -> None:
    polygon, ellipse, rectangle = (
        with_draft(region(tool, "this", value), trigger=text("this")).prompts(SIZE).prompts[0]
        for tool, value in (("Polygon", TRIANGLE), ("Ellipse", ELLIPSE), ("Rectangle", BOX))
    )
    assert isinstance(polygon, PolygonPrompt)
    np.testing.assert_allclose(polygon.points, [[20, 10], [120, 10], [20, 90]])
    assert isinstance(ellipse, PolygonPrompt)
    np.testing.assert_allclose([ellipse.points.min(axis=0), ellipse.points.max(axis=0)], [[80, 30], [120, 70]], atol=0.1)
    assert rectangle == BoxPrompt((20.0, 20.0, 80.0, 60.0))


def test_a_mask_to_refine_is_the_mask_whatever_it_was_drawn_with() -> None:
    (bits,) = painted.write_bitmask(RunLengths.of(SQUARE))
    strokes = {"format": "rle", "rle": rle.encode(SQUARE)}
    for tool, value in (("Brush", strokes), ("Bitmask", bits.value)):
        (mask,) = with_draft(region(tool, "mask", value), trigger=text("this")).prompts(SIZE).prompts
        assert isinstance(mask, MaskPrompt)
        assert np.array_equal(mask.mask, SQUARE)


def test_an_ordinary_key_point_with_a_role_is_a_click() -> None:
    found = with_draft(region("KeyPoint", "not this", {"x": 25, "y": 50, "width": 1}), trigger=text("this")).prompts(SIZE)
    assert found.prompts == (PointPrompt((50.0, 50.0), positive=False),)


@pytest.mark.parametrize("label", ["Cat", "note"])
@pytest.mark.parametrize(("tool", "value"), [("Brush", STROKE), ("Polygon", TRIANGLE), ("Rectangle", BOX)])
def test_a_result_and_a_region_to_be_ignored_are_left_alone(tool: str, value: dict[str, Any], label: str) -> None:
    assert len(with_draft(region(tool, label, value)).prompts(SIZE)) == 1


def test_labels_with_a_role_are_no_classes() -> None:
    assert with_draft().vocabulary.labels == ("Cat", "Dog")


def test_a_role_of_the_tag_keeps_its_labels_as_classes_and_arms_them() -> None:
    outline = {**region("Polygon", "Dog", TRIANGLE), "from_name": "outline"}
    assert with_draft(outline, trigger=text("this")).regions[0].label == "Dog"


def test_marks_from_before_the_last_accepted_suggestion_are_used() -> None:
    old, new = region("Brush", "this", STROKE, "old"), region("Rectangle", "this", BOX, "new")
    assert len(with_draft(old, accepted(), trigger=text("this")).prompts(SIZE)) == 0
    (left,) = with_draft(old, accepted(), new, trigger=text("this")).prompts(SIZE).prompts
    assert isinstance(left, BoxPrompt)


def test_a_region_that_was_predicted_uses_nothing_up() -> None:
    predicted = {**accepted(), "origin": "prediction"}
    assert len(with_draft(region("Brush", "this", STROKE), predicted, trigger=text("this")).prompts(SIZE)) == 1


def test_clicks_that_a_tick_left_behind_are_used_but_the_newest_click_never() -> None:
    old, new = point(10, 10, id="old"), point(90, 90, id="new")
    request = prompted(old, new, config=CONFIG, drafts=[{"user": "a", "result": [old, accepted(), new]}])
    assert only_task(request).prompts(SIZE).prompts == (PointPrompt((180.0, 90.0)),)
    request = prompted(new, config=CONFIG, drafts=[{"user": "a", "result": [new, accepted()]}])
    assert only_task(request).prompts(SIZE).prompts == (PointPrompt((180.0, 90.0)),)


def test_a_smart_box_that_was_moved_counts_where_it_is_now() -> None:
    """The page asks at once, while the draft still holds the box where it was."""
    box, moved = region("Rectangle", "mask", BOX), region("Rectangle", "mask", {**BOX, "x": 50})
    (prompt,) = with_draft(box, trigger=moved).prompts(SIZE).prompts
    assert isinstance(prompt, MaskPrompt)
    assert np.flatnonzero(prompt.mask.any(axis=0))[0] == 100


def test_only_the_newest_draft_counts() -> None:
    older = {"user": "a", "updated_at": "2026-11-20T22:35:42Z", "result": [region("Brush", "this", STROKE)]}
    newer = {"user": "a", "updated_at": "2026-11-20T22:36:42Z", "result": [region("Rectangle", "this", BOX)]}
    task = only_task(prompted(text("this"), config=CONFIG, drafts=[newer, older]))
    assert [type(prompt) for prompt in task.prompts(SIZE).prompts] == [BoxPrompt]


def test_marks_on_another_page_or_image_stay_out() -> None:
    config = CONFIG.replace('value="$image"', 'valueList="$image"').replace("</View>", '<Image name="b" value="$b"/></View>')
    regions = [region("Rectangle", "this", BOX, str(page), item_index=page) for page in (0, 1)]
    drafts = [{"user": "a", "result": [*regions, region("Rectangle", "this", BOX, "b", to_name="b")]}]
    pages = {"image": ["0.png", "1.png"], "b": "b.png"}
    task = only_task(prompted(point(item_index=1), config=config, drafts=drafts, data=pages))
    assert [mark.id for mark in task.regions] == ["1"]


def test_a_smart_box_with_the_label_of_a_reference_is_an_example() -> None:
    box = {**region("Rectangle", "ref", BOX), "item_index": None}
    task = only_task(prompted(box, config=CONFIG))
    assert len(task.prompts(SIZE)) == 0
    (mark,) = task.references
    assert mark.runs(SIZE).area == 60 * 40
    assert task.armed_label is None


def test_a_smart_click_with_the_label_of_not_this_is_a_click_against() -> None:
    task = only_task(prompted(point(label="not this", from_name="keypoint"), config=CONFIG))
    assert task.prompts(SIZE).prompts == (PointPrompt((100.0, 50.0), positive=False),)


def test_like_this_means_the_references_of_the_draft_and_of_the_annotations() -> None:
    drawn, submitted = region("Rectangle", "ref", BOX, "a"), region("Brush", "unref", STROKE, "b")
    task = with_draft(drawn, trigger=text("like this"), annotations=[{"result": [submitted]}])
    assert sorted((mark.id, mark.role.value) for mark in task.references) == [("a", "reference"), ("b", "unlike")]
    assert len(with_draft(drawn, trigger=text("cup")).references) == 0


@pytest.mark.parametrize("value", [{}, {"points": [[1, 2]]}, {"points": "x"}, {"points": [[1, 2], [3], [4, 5]]}])
def test_a_region_that_cannot_be_read_is_left_out_unless_there_is_nothing_else(value: dict[str, Any]) -> None:
    broken, whole = region("Polygon", "this", value, "broken"), region("Rectangle", "this", BOX)
    assert [type(prompt) for prompt in with_draft(broken).prompts(SIZE).prompts] == [PointPrompt]
    assert [type(prompt) for prompt in with_draft(broken, whole, trigger=text("this")).prompts(SIZE).prompts] == [BoxPrompt]
    with pytest.raises(RequestError, match=r"task 8: .*polygon"):
        with_draft(broken, trigger=text("this")).prompts(SIZE)


def test_a_region_beside_the_image_is_left_out_too() -> None:
    outside = region("Polygon", "this", {"points": [[110, 110], [160, 110], [110, 190]]})
    assert [type(prompt) for prompt in with_draft(outside).prompts(SIZE).prompts] == [PointPrompt]
    with pytest.raises(RequestError, match="a polygon region lies outside the image of 200 x 100 pixels"):
        with_draft(outside, trigger=text("this")).prompts(SIZE)


def test_a_smart_prompt_of_the_draft_that_cannot_be_read_is_left_out() -> None:
    task = with_draft(point(x=None, id="broken"), point(30, 30, id="whole"), trigger=text("wheel"))
    assert [mark.id for _, mark in task.draft.current] == ["whole"]


def test_results_that_cannot_be_read_cost_themselves_alone() -> None:
    """A polygon that is still being drawn has two points; a mask may be from when the image had another size."""
    line = region("Polygon", "Cat", {"points": [[20, 20], [65, 80]], "closed": False}, "line")
    small = region("Brush", "Cat", {"format": "rle", "rle": rle.encode(SQUARE[:50])}, "small")
    task = with_draft(line, region("Rectangle", "Cat", BOX, "whole"), small, trigger=text("like Cat"))
    (wanted,) = task.reference_requests()
    assert [mark.id for mark, _ in masks_of(wanted.here, SIZE)] == ["whole"]


def test_long_ids_are_kept_apart_in_few_characters() -> None:
    ids = ["short", "x" * 40, "x" * 41, "x" * 500, "x" * 501]
    marks = [RegionMark.of(region("Brush", "Cat", STROKE, name), Role.REFERENCE, "Cat") for name in ids]
    assert [mark.short_id for mark in marks[:2]] == ids[:2]
    assert len({mark.short_id for mark in marks}) == len(ids)
    assert max(len(mark.short_id) for mark in marks) <= 50


def test_a_mask_of_another_size_is_refused() -> None:
    painted = {"format": "rle", "rle": rle.encode(SQUARE)}
    with pytest.raises(RequestError, match="was the image replaced"):
        with_draft(region("Brush", "mask", painted), trigger=text("this")).prompts(Size(50, 50))


def test_a_role_that_does_not_exist_is_named() -> None:
    (error,) = read_predict(prompted(point(), config=CONFIG.replace('maskloom="unlike"', 'maskloom="unlikely"')))
    assert "maskloom='unlikely'; it can be for, against, refine, reference, unlike, ignore" in str(error)


def test_with_separate_labels_the_role_is_on_the_twin() -> None:
    config = """<View><Image name="image" value="$image"/><Labels name="label" toName="image">
        <Label value="Cat"/><Label value="this" maskloom="for"/></Labels><Brush name="brush" toName="image"/>
        <KeyPoint name="kp" toName="image"/></View>"""
    shape = {"id": "s", "type": "brush", "from_name": "brush", "to_name": "image", "value": STROKE}
    twin = {**shape, "type": "labels", "from_name": "label", "value": {**STROKE, "labels": ["this"]}}
    click = {**point(), "type": "keypoint", "value": {"x": 1, "y": 1, "width": 1, "labels": ["Cat"]}}
    task = only_task(prompted(click, config=config, drafts=[{"user": "a", "result": [shape, twin]}]))
    assert [type(prompt) for prompt in task.prompts(SIZE).prompts] == [PointPrompt, ScribblePrompt]
