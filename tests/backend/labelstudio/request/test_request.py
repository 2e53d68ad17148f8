"""What Label Studio asks: every captured request with the meaning that we read from it, and anything else without a crash."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.labelstudio.answer import write_message, write_prediction
from backend.labelstudio.config import ImageLabels
from backend.labelstudio.request.request import (
    Draft,
    InteractionRequest,
    PreannotationRequest,
    Request,
    TaskImage,
    TaskRequest,
    read_predict,
)
from backend.labelstudio.request.video import FilmInteraction, FilmRequest
from backend.labelstudio.shapes import RegionMark
from backend.labelstudio.tags import ControlTag, Role
from backend.values.errors import RequestError
from backend.values.masks import Masks, MaskSet
from prompts.geometry import Size
from prompts.kinds import BoxPrompt, PointPrompt, TextPrompt
from prompts.phrases import Vocabulary
from tests.backend.labelstudio.captured import NAMES, body, box, only_task, point, prompted, text

VGA = Size(480, 640)
SHAPES = "/data/upload/1/de430049-shapes.png"


def read_one(request: dict[str, Any]) -> Request | RequestError:
    (entry,) = read_predict(request)
    return entry


def test_a_first_click_is_one_positive_point_under_its_label() -> None:
    task = only_task(body("interactive_keypoint_1"))
    (click,) = task.prompts(VGA).prompts
    assert isinstance(click, PointPrompt)
    assert click.xy == pytest.approx((0.30948 * 640, 0.45168 * 480), abs=0.01)
    assert (click.positive, task.armed_label) == (True, "Cat")
    assert (task.project, task.task_id, task.annotator) == ("1.1795211212", "1", "admin@example.com")
    assert (task.labels.image.name, task.image.url, task.image.item_index) == ("image", SHAPES, None)
    assert task.vocabulary.labels == ("Cat", "Dog")


def test_clicks_accumulate_in_drawing_order_and_alt_makes_one_negative() -> None:
    prompts = only_task(body("interactive_keypoint_3_with_negative")).prompts(VGA)
    assert prompts.point_labels.tolist() == [1, 1, 0]
    np.testing.assert_allclose(prompts.point_coords, [[198.11, 216.82], [228.32, 240], [441.89, 240]], atol=0.01)


def test_a_smart_rectangle_is_a_box() -> None:
    task = only_task(body("interactive_rectangle"))
    np.testing.assert_allclose(task.prompts(VGA).boxes, [[380.77, 148.67, 533.92, 376.99]], atol=0.01)
    assert task.armed_label == "Dog"


def test_an_ordinary_rectangle_that_comes_along_is_no_prompt() -> None:
    task = only_task(body("interactive_rectangle_with_existing_plain_rectangle"))
    np.testing.assert_allclose(task.prompts(VGA).boxes, [[380.79, 148.64, 534.0, 377.04]], atol=0.01)


def test_a_typed_text_is_a_phrase_without_an_armed_label() -> None:
    task = only_task(body("interactive_textarea"))
    assert task.prompts(VGA).prompts == (TextPrompt("red circle"),)
    assert task.armed_label is None


def test_two_text_areas_are_read_together_and_one_names_the_page() -> None:
    task = only_task(body("interactive_textarea_two_areas_perItem"))
    assert task.prompts(VGA).phrases == ("global text", "item text")
    assert (task.image.item_index, task.image.url) == (2, SHAPES)


def test_a_click_on_the_third_page_is_about_the_third_image() -> None:
    task = only_task(body("interactive_multi_image_item2"))
    assert (task.image.item_index, task.image.url, task.project) == (2, SHAPES, "2.1795212197")
    assert len(task.prompts(VGA)) == 1


def test_percents_are_of_the_upright_image() -> None:
    """The file is stored 640 x 480 with EXIF orientation 6; the page shows and measures 480 x 640."""
    prompts = only_task(body("interactive_exif6")).prompts(Size(640, 480))
    np.testing.assert_allclose(prompts.point_coords, [[240.42, 160]], atol=0.01)


def test_with_separate_labels_each_prompt_comes_twice_and_counts_once() -> None:
    task = only_task(body("interactive_separated_controls"))
    assert len(task.prompts(VGA)) == 1
    assert (task.armed_label, task.image.url) == ("Cat", "/data/local-files/?d=sub/local1.png")


def test_a_box_under_two_selected_labels_comes_twice_and_counts_once() -> None:
    """The page sends a region once for each control whose label is selected, every time with the same id."""
    first = box(10, 10, 20, 20)
    task = only_task(prompted(first, {**first, "from_name": "other"}, box(60, 60, 20, 20)))
    assert len(task.prompts(VGA)) == 2


def test_regions_of_annotations_and_drafts_are_no_prompts() -> None:
    task = only_task(body("interactive_with_annotation_and_draft"))
    assert task.prompts(VGA).prompts == (PointPrompt((320.0, 240.0)),)


def test_a_scribble_in_the_draft_is_left_alone() -> None:
    prompts = only_task(body("interactive_with_scribble_in_draft")).prompts(VGA)
    np.testing.assert_allclose(prompts.point_coords, [[441.89, 240]], atol=0.01)


def test_a_relabelled_box_of_a_video_is_read_with_its_label_and_the_frame_rate_of_the_config() -> None:
    entry = read_one(body("interactive_video_relabel"))

    assert isinstance(entry, FilmInteraction)
    (region,) = entry.regions
    assert (entry.project, entry.task_id, entry.frame_rate, entry.url) == (
        "9.1795213529",
        "166",
        25,
        "/data/local-files/?d=sub/v.webm",
    )
    assert (region.label, [(each.frame, each.box, each.is_given) for each in region.keyframes]) == (
        "Other",
        [(1, (10, 40, 25, 60), True)],
    )


def test_a_verb_before_what_is_to_be_found_in_a_video_means_nothing() -> None:
    entry = read_one(body("interactive_video_text"))

    assert isinstance(entry, FilmInteraction)
    assert [text.phrase for text in entry.typed.texts] == ["ball"]


@pytest.mark.parametrize(
    ("name", "tasks"),
    [("predict_preannotation_batch", 6), ("predict_preannotation_open_task", 1), ("predict_project_credentials", 30)],
)
def test_a_pre_annotation_has_no_prompts_and_every_task(name: str, tasks: int) -> None:
    entries = read_predict(body(name))
    assert len(entries) == tasks
    for entry in entries:
        assert isinstance(entry, PreannotationRequest)
        assert entry.vocabulary.labels == entry.labels.vocabulary.labels


def test_tasks_come_in_the_order_of_the_request() -> None:
    batch = body("predict_preannotation_batch")
    assert [entry.task_id for entry in read_predict(batch) if isinstance(entry, TaskRequest)] == ["1", "2", "3", "4", "5", "6"]


@pytest.mark.parametrize(
    "params", [None, {}, {"context": None}, {"context": {}}, {"context": {"result": []}}, {"context": 5}, 5]
)
def test_without_regions_in_the_context_it_is_a_pre_annotation(params: object) -> None:
    assert isinstance(only_task({**body("interactive_keypoint_1"), "params": params}), PreannotationRequest)


def test_a_context_without_any_prompt_left_is_interactive_and_empty() -> None:
    ordinary = {key: value for key, value in point().items() if key != "is_positive"}
    task = only_task(prompted(ordinary, {"type": "brushlabels", "id": "x"}))
    assert isinstance(task, InteractionRequest)
    assert (len(task.prompts(VGA)), task.armed_label) == (0, None)


def test_value_positive_tells_the_sign_too() -> None:
    item = {key: value for key, value in point().items() if key != "is_positive"}
    item["value"]["positive"] = False
    assert only_task(prompted(item)).prompts(VGA).point_labels.tolist() == [0]


def test_several_new_boxes_are_several_prompts() -> None:
    assert len(only_task(prompted(box(10, 10, 10, 10), box(50, 50, 10, 10))).prompts(VGA)) == 2


@pytest.mark.parametrize(("smart_only", "boxes"), [("false", 1), ("true", 2)])
def test_a_drafted_rectangle_is_a_prompt_where_only_smart_ones_can_be_drawn(smart_only: str, boxes: int) -> None:
    config = f"""<View><Image name="image" value="$image"/><RectangleLabels name="rect" toName="image" smartOnly="{smart_only}">
        <Label value="Cat"/></RectangleLabels></View>"""
    first, second = box(10, 10, 10, 10), box(50, 50, 10, 10)
    drafts = [{"user": "a@b", "result": [first, second]}]
    assert len(only_task(prompted(first, second, config=config, drafts=drafts)).prompts(VGA)) == boxes


@pytest.mark.parametrize("place", ["annotations", "predictions"])
def test_a_region_that_was_submitted_is_no_prompt(place: str) -> None:
    holder = {place: [{"result": [box(10, 10, 10, 10), point(20, 20)]}]}
    items = [box(10, 10, 10, 10), point(20, 20), point(70, 70)]
    assert only_task(prompted(*items, **holder)).prompts(VGA).prompts == (PointPrompt((448.0, 336.0)),)


def test_a_region_that_came_from_a_prediction_is_no_prompt() -> None:
    items = [box(10, 10, 10, 10, origin="prediction"), box(30, 30, 10, 10, origin="prediction-changed"), point()]
    assert len(only_task(prompted(*items)).prompts(VGA)) == 1


def test_a_turned_rectangle_becomes_the_box_around_it() -> None:
    item = box(50, 50, 10, 20)
    item["value"]["rotation"] = 90
    np.testing.assert_allclose(only_task(prompted(item)).prompts(Size(100, 100)).boxes, [[30, 50, 50, 60]], atol=1e-9)


def test_a_box_over_the_edge_is_cut_at_the_edge() -> None:
    boxes = only_task(prompted(box(-10, 90, 30, 30))).prompts(Size(100, 200)).boxes
    np.testing.assert_allclose(boxes, [[0, 90, 40, 100]])


@pytest.mark.parametrize(("x", "pixel"), [(-0.4, 0.0), (100.4, 640.0), (100, 640.0)])
def test_a_click_just_beside_the_image_is_moved_to_its_edge(x: float, pixel: float) -> None:
    assert only_task(prompted(point(x, 50))).prompts(VGA).prompts == (PointPrompt((pixel, 240.0)),)


@pytest.mark.parametrize("item", [point(100.6, 50), point(50, -3), box(101, 0, 5, 5), box(0, -20, 5, 5)])
def test_a_prompt_off_the_image_is_refused_with_its_task(item: dict[str, Any]) -> None:
    with pytest.raises(
        RequestError, match=r"task 8: a (click|box of .* %) at [^()]* lies outside the image of 640 x 480 pixels$"
    ):
        only_task(prompted(item)).prompts(VGA)


@pytest.mark.parametrize("wrong", [None, "10", [1], True, float("nan"), float("inf"), 10**400, -1e7])
def test_a_prompt_without_usable_coordinates_costs_its_task(wrong: object) -> None:
    for item in (point(), box(1, 1, 5, 5)):
        item["value"]["x"] = wrong
        entry = read_one(prompted(item))
        assert isinstance(entry, RequestError)
        assert "task 8: expected" in str(entry)
        assert len(str(entry)) < 150


@pytest.mark.parametrize(
    "wrong", [point(150, 50), box(0, -20, 5, 5), {**point(), "value": {}}, {**box(1, 1, 5, 5), "value": None}]
)
@pytest.mark.parametrize("is_newest", [True, False])
def test_a_prompt_that_is_wrong_costs_itself_alone(wrong: dict[str, Any], is_newest: bool) -> None:
    good, wrong = {**point(25, 50), "id": "good"}, {**wrong, "id": "wrong"}
    items = [good, wrong] if is_newest else [wrong, good]
    assert only_task(prompted(*items)).prompts(VGA).prompts == (PointPrompt((160.0, 240.0)),)


def test_an_unknown_label_is_named_together_with_the_known_ones() -> None:
    entry = read_one(prompted(point(label="Bird")))
    assert isinstance(entry, RequestError)
    assert "'Bird'" in str(entry)
    assert "['Cat', 'Dog']" in str(entry)


def test_a_label_that_arrives_under_its_alias_is_armed_under_its_value() -> None:
    config = """<View><Image name="image" value="$image"/><KeyPointLabels name="kp" toName="image">
        <Label value="R&amp;D" alias="lab"/></KeyPointLabels></View>"""
    assert only_task(prompted(point(label="lab"), config=config)).armed_label == "R&D"
    assert only_task(prompted(point(label="R&D"), config=config)).armed_label == "R&D"


def test_negative_phrases_and_lists_are_read_from_a_text() -> None:
    prompts = only_task(prompted(text("cup, not the saucer", "plate", "cup"))).prompts(VGA)
    assert prompts.prompts == (TextPrompt("cup"), TextPrompt("saucer", positive=False), TextPrompt("plate"))


@pytest.mark.parametrize("lines", [(), ("",), (" ", "\n"), (None,), (5,)])
def test_an_empty_text_is_no_prompt(lines: tuple[Any, ...]) -> None:
    assert len(only_task(prompted(text(*lines))).prompts(VGA)) == 0


def test_our_own_message_does_not_come_back_as_a_prompt() -> None:
    asked = only_task(body("interactive_textarea"))
    (message,) = write_message(asked, "the image cannot be read", "v1")["result"]
    assert only_task(prompted(message, text("cup"))).prompts(VGA).phrases == ("cup",)


def test_a_note_on_a_single_region_is_no_prompt() -> None:
    config = """<View><Image name="image" value="$image"/><TextArea name="prompt" toName="image" perRegion="true"/>
        <BrushLabels name="b" toName="image"><Label value="Cat"/></BrushLabels></View>"""
    assert len(only_task(prompted(text("a scratch"), config=config)).prompts(VGA)) == 0


def test_prompts_of_another_image_or_page_stay_out() -> None:
    config = """<View><Image name="left" value="$l"/><Image name="right" valueList="$r"/>
        <KeyPointLabels name="kp" toName="right"><Label value="Cat"/></KeyPointLabels></View>"""
    items = [point(10, 10, to_name="left"), point(20, 20, to_name="right"), point(30, 30, to_name="right", item_index=1)]
    items += [point(40, 40, to_name="right", item_index=0), point(50, 50, to_name="right", item_index=1)]
    task = only_task(prompted(*items, config=config, data={"l": "l.png", "r": ["r0.png", "r1.png"]}))
    assert (task.labels.image.name, task.image.url, task.image.item_index) == ("right", "r1.png", 1)
    np.testing.assert_allclose(task.prompts(Size(100, 100)).point_coords, [[20, 20], [30, 30], [50, 50]])


def test_a_prompt_on_something_else_than_an_image_is_refused() -> None:
    entry = read_one(prompted(point(to_name="audio")))
    assert "'audio'" in str(entry)
    assert isinstance(entry, RequestError)


@pytest.mark.parametrize("index", [-1, 3, 1.5, "1", True, 10**30])
def test_a_page_that_is_not_there_is_refused(index: object) -> None:
    request = body("interactive_multi_image_item2")
    request["params"]["context"]["result"][0]["item_index"] = index
    assert isinstance(read_one(request), RequestError)


@pytest.mark.parametrize("data", [None, [], {}, {"image": None}, {"image": ""}, {"image": 5}, {"image": []}, {"image": [None]}])
def test_a_task_without_an_image_address_is_refused_alone(data: object) -> None:
    batch = body("predict_preannotation_batch")
    batch["tasks"][1]["data"] = data
    entries = read_predict(batch)
    assert [isinstance(entry, RequestError) for entry in entries] == [False, True, False, False, False, False]
    assert str(entries[1]).startswith("task 2: ")


@pytest.mark.parametrize("task", [None, 5, "task", []])
def test_a_task_that_is_no_object_is_refused_alone(task: object) -> None:
    batch = body("predict_preannotation_batch")
    batch["tasks"][0] = task
    assert [isinstance(entry, RequestError) for entry in read_predict(batch)] == [True, *[False] * 5]


@pytest.mark.parametrize("xml", [None, 5, "", "<View>", "<View/>"])
def test_an_unusable_config_costs_every_task_and_not_the_request(xml: object) -> None:
    entries = read_predict({**body("predict_preannotation_batch"), "label_config": xml})
    assert len(entries) == 6
    assert all(isinstance(entry, RequestError) for entry in entries)


@pytest.mark.parametrize("request_body", [{}, {"tasks": None}, {"tasks": {}}, {"tasks": "x"}, [], None])
def test_a_body_without_a_list_of_tasks_is_refused(request_body: Any) -> None:
    with pytest.raises(RequestError, match="'tasks'"):
        read_predict(request_body)


@pytest.mark.parametrize(("sent", "project"), [("12.1795211212",) * 2, ("7", "7"), (3, "3"), (None, ""), ({}, "")])
def test_the_project_is_what_the_request_calls_it(sent: object, project: str) -> None:
    assert only_task({**body("interactive_keypoint_1"), "project": sent}).project == project


def test_equal_questions_have_equal_fingerprints_whatever_their_region_ids() -> None:
    request = prompted(point(10, 10), point(20, 20))
    renamed = prompted(point(10, 10, id="other"), point(20, 20, id="names"), predictions=[], updated_at="later")
    assert only_task(request).fingerprint() == only_task(renamed).fingerprint()


def test_different_questions_have_different_fingerprints() -> None:
    config = body("interactive_keypoint_1")["label_config"]
    requests = [
        prompted(point(10, 10), point(20, 20)),
        prompted(point(10, 10)),
        prompted(point(10, 10), point(20, 20, is_positive=False)),
        prompted(point(10, 10, label="Dog"), point(20, 20, label="Dog")),
        prompted(point(10, 10), point(20, 20), data={"image": "/other.png"}),
        prompted(point(10, 10), point(20, 20), id=9),
        prompted(point(10, 10), point(20, 20), config=config.replace("Dog", "Cow")),
        prompted(point(10, 10), point(20, 20), drafts=[{"user": "someone@else", "result": []}]),
        {**prompted(point(10, 10), point(20, 20)), "project": "99.1"},
        {**prompted(point(10, 10), point(20, 20)), "params": {}},
        prompted(text("cup")),
        prompted(text("not cup")),
        prompted(box(10, 10, 10, 10)),
    ]
    assert len({only_task(request).fingerprint() for request in requests}) == len(requests)


def test_labels_of_the_task_s_data_are_part_of_the_question() -> None:
    config = """<View><Image name="image" value="$image"/><BrushLabels name="b" toName="image" value="$labels"/></View>"""
    data = {"image": "a.png", "labels": ["Cat"]}
    cat = only_task({**prompted(config=config, data=data)})
    dog = only_task({**prompted(config=config, data={**data, "labels": ["Dog"]})})
    assert cat.vocabulary.labels == ("Cat",)
    assert cat.fingerprint() != dog.fingerprint()


@given(st.floats(0, 100), st.floats(0, 100), st.builds(Size, st.integers(1, 9000), st.integers(1, 9000)))
def test_every_click_on_the_image_is_a_point_on_the_image(x: float, y: float, size: Size) -> None:
    (point_x, point_y), *_ = only_task(prompted(point(x, y))).prompts(size).point_coords.tolist()
    assert (point_x, point_y) == pytest.approx((x * size.width / 100, y * size.height / 100))
    assert point_x <= size.width
    assert point_y <= size.height


@given(*[st.floats(0, 100)] * 4, st.floats(-720, 720))
def test_every_rectangle_that_meets_the_image_is_a_box_on_the_image(
    x: float, y: float, width: float, height: float, degrees: float
) -> None:
    item = box(x, y, width, height)
    item["value"]["rotation"] = degrees
    (found,) = only_task(prompted(item)).prompts(VGA).of(BoxPrompt)
    x0, y0, x1, y1 = found.xyxy
    assert 0 <= x0 <= x1 <= 640
    assert 0 <= y0 <= y1 <= 480


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a JSON value, as its holder and its key there."""
    for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield node, key
        yield from places(node[key])


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([10**400, "\ud800", "image", "rect", "Cat"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(NAMES), st.data())
def test_whatever_is_wrong_with_a_request_it_is_answered_or_refused(name: str, data: st.DataObject) -> None:
    request = body(name)
    for _ in range(data.draw(st.integers(1, 5))):
        holder, key = data.draw(st.sampled_from(list(places(request))))
        if data.draw(st.booleans()) and isinstance(holder, dict):
            holder.pop(key)
        else:
            holder[key] = data.draw(junk)
    with suppress(RequestError):
        entries = read_predict(request)
        assert len(entries) == len(request["tasks"])
        for entry in entries:
            answer(entry)


def answer(entry: Request | RequestError) -> None:
    """Everything that the service does with an entry; each answer must be JSON that Label Studio takes."""
    if isinstance(entry, RequestError):
        assert str(entry)
        return
    assert len(entry.fingerprint()) == 32
    if isinstance(entry, FilmRequest):
        assert entry.url
        assert entry.frame_rate >= 1
        return
    if isinstance(entry, InteractionRequest):
        with suppress(RequestError):
            entry.prompts(Size(8, 8))
    masks = MaskSet(
        Masks.of_stack(np.ones((1, 8, 8), np.bool_)),
        np.ones(1, np.float32),
        (entry.armed_label if isinstance(entry, InteractionRequest) else None,),
        np.zeros((1, 1, 1), np.float16),
        np.zeros((1, 1), np.float32),
    )
    for prediction in (write_prediction(entry, masks, "v"), write_message(entry, "sorry", "v")):
        json.dumps(prediction, allow_nan=False)


@given(st.dictionaries(st.sampled_from(["tasks", "project", "label_config", "params"]), junk))
def test_a_body_of_anything_is_answered_or_refused(request_body: dict[str, Any]) -> None:
    with suppress(RequestError):
        read_predict(request_body)


def parts_of(value: Any) -> Iterator[Any]:
    """Every dataclass that a request is made of."""
    if is_dataclass(value):
        yield value
        for column in fields(value):
            yield from parts_of(getattr(value, column.name))
    elif isinstance(value, tuple):
        for each in value:
            yield from parts_of(each)


def full_requests() -> list[Request]:
    """Requests in which no part is missing."""
    saved = {"user": "a", "result": [box(5, 5, 5, 5, id="saved"), point(1, 1, id="p"), box(9, 9, 9, 9, id="result")]}
    boxes = only_task(prompted(box(5, 5, 5, 5, id="saved"), box(20, 20, 5, 5), text("like Cat, cup"), drafts=[saved]))
    assert isinstance(boxes, InteractionRequest)
    clicks = only_task(prompted(point(), drafts=[saved]))
    batch = read_predict({**prompted(data={"image": ["a.png", "b.png"]}), "params": None})[0]
    assert isinstance(batch, PreannotationRequest)
    assert batch.further
    assert boxes.ambiguous
    assert boxes.draft.results
    assert clicks.draft.current
    mark = RegionMark.of(box(1, 1, 1, 1), Role.FOR, "Cat")
    return [replace(boxes, regions=(mark,), references=(mark,)), clicks, replace(batch, sought=batch.labels.vocabulary)]


def test_no_part_of_a_request_has_a_say_in_the_answer_without_one_in_the_fingerprint() -> None:
    """The fingerprint is made of what parts show: a field is shown exactly if it is compared."""
    kinds = {type(part) for request in full_requests() for part in parts_of(request)}
    assert {InteractionRequest, PreannotationRequest, TaskImage, Draft, RegionMark, ImageLabels, ControlTag} <= kinds
    unequal = {f"{kind.__name__}.{column.name}" for kind in kinds for column in fields(kind) if column.compare != column.repr}
    assert unequal == set()


@pytest.mark.parametrize("kind", [InteractionRequest, PreannotationRequest])
def test_every_field_of_a_request_changes_its_fingerprint(kind: type[Request]) -> None:
    (request,) = [each for each in full_requests() if isinstance(each, kind)][:1]
    changed = [replace(request, **{column.name: ("changed", column.name)}) for column in fields(request)]
    assert len({each.fingerprint() for each in (request, *changed)}) == len(fields(request)) + 1


def test_the_vocabulary_of_a_request_is_that_of_its_image() -> None:
    config = """<View><Image name="left" value="$l"/><Image name="right" value="$r"/>
        <BrushLabels name="a" toName="left"><Label value="red"/></BrushLabels>
        <BrushLabels name="b" toName="right"><Label value="Red"/></BrushLabels></View>"""
    task = only_task({**prompted(config=config, data={"l": "l.png", "r": "r.png"}), "params": None})
    assert isinstance(task, PreannotationRequest)
    assert [(each.image.url, each.vocabulary.labels) for each in task.images()] == [("l.png", ("red",)), ("r.png", ("Red",))]
    sought = replace(task, sought=Vocabulary.from_names(["Red"]))
    assert [each.vocabulary.labels for each in sought.images()] == [(), ("Red",)]


def test_a_typed_label_is_looked_for_by_the_phrases_that_the_config_gives_it() -> None:
    config = """<View><Image name="image" value="$image"/><TextArea name="prompt" toName="image"/>
        <BrushLabels name="b" toName="image"><Label value="Felis" predicted_values="kitten"/>
        <Label value="not red" predicted_values="blue"/></BrushLabels></View>"""
    prompts = only_task(prompted(text("Felis, not red"), config=config)).prompts(VGA)
    assert prompts.prompts == tuple(map(TextPrompt, ("Felis", "kitten", "not red", "blue")))
