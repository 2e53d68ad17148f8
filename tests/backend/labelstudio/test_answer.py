"""Masks as Label Studio's predictions: the control, the label, the size and the id of every result."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.labelstudio.answer import write_message, write_prediction
from backend.labelstudio.config import read_config
from backend.labelstudio.request.request import TaskRequest
from backend.labelstudio.shapes import painted as rle
from backend.labelstudio.shapes.base import write_empty
from backend.values.errors import ConfigError
from backend.values.masks import Masks, MaskSet
from prompts.geometry import BoolArray, Size, box_mask
from tests.backend.labelstudio.captured import body, box, only_task, point, prompted, text
from tests.labelstudio.prepare import shared_folder

SIZE = Size(60, 90)
LEFT, RIGHT = box_mask((5, 10, 25, 40), SIZE), box_mask((50, 20, 80, 50), SIZE)
STUDIO = shared_folder()
CHECK = """
import json, sys
from label_studio_sdk.label_interface import LabelInterface
written = json.load(open(sys.argv[1]))
found = [LabelInterface(config).validate_prediction(answer, return_errors=True) for config, answer in written]
print(json.dumps(found))
"""
LABELS = '<Label value="Cat"/><Label value="Dog"/>'


def mask_set(*rows: tuple[BoolArray, float, str | None]) -> MaskSet:
    masks, scores, labels = zip(*rows, strict=True)
    count = len(rows)
    return MaskSet(
        Masks.of_stack(np.stack(masks)),
        np.array(scores, np.float32),
        labels,
        np.zeros((count, 1, 1), np.float16),
        np.zeros((count, 1), np.float32),
    )


def controls(*tags: str, labels: str = LABELS) -> str:
    inner = "".join(
        f'<{tag} name="{tag.lower()}" toName="image">{labels if tag.endswith("Labels") else ""}</{tag}>' for tag in tags
    )
    return f'<View><Image name="image" value="$image"/>{inner}</View>'


def task_with(config: str, *items: dict[str, Any], **task: Any) -> TaskRequest:
    return only_task(prompted(*items, config=config, **task))


def write(config: str, *rows: tuple[BoolArray, float, str | None]) -> list[dict[str, Any]]:
    return write_prediction(task_with(config), mask_set(*rows), "v1")["result"]


def test_each_region_is_a_brush_mask_of_exactly_the_image_s_size() -> None:
    request = body("interactive_textarea")
    prediction = write_prediction(only_task(request), mask_set((LEFT, 0.8, "Cat"), (RIGHT, 0.6, "Dog")), "v1")
    for result, mask, label in zip(prediction["result"], (LEFT, RIGHT), ("Cat", "Dog"), strict=True):
        assert (result["from_name"], result["to_name"], result["type"]) == ("brush", "image", "brushlabels")
        assert (result["original_width"], result["original_height"], result["image_rotation"]) == (90, 60, 0)
        assert result["value"]["brushlabels"] == [label]
        assert result["value"]["format"] == "rle"
        assert np.array_equal(rle.decode(result["value"]["rle"], SIZE), mask)
        assert result["meta"] == {"text": ['text "red circle"']}
    assert prediction["model_version"] == "v1"


def test_the_score_of_a_prediction_is_the_mean_of_its_regions() -> None:
    prediction = write_prediction(
        only_task(body("interactive_textarea")), mask_set((LEFT, 0.9, "Cat"), (RIGHT, 0.5, "Dog")), "v1"
    )
    assert [result["score"] for result in prediction["result"]] == pytest.approx([0.9, 0.5], abs=1e-6)
    assert prediction["score"] == pytest.approx(0.7, abs=1e-6)


def test_no_masks_are_an_empty_prediction_with_a_version() -> None:
    empty = {"result": [], "score": 0.0, "model_version": "v1"}
    assert write_prediction(only_task(body("interactive_keypoint_1")), MaskSet.empty(SIZE), "v1") == empty
    assert write_empty("v1") == empty


def test_ids_are_unique_and_new_each_time() -> None:
    """The page replaces a region of its session when an id comes back, so that an accepted mask would vanish."""
    rows = ((LEFT, 0.9, "Cat"), (RIGHT, 0.9, "Cat"))
    ids = [result["id"] for _ in range(2) for result in write(controls("BrushLabels"), *rows)]
    assert len(set(ids)) == 4


@pytest.mark.parametrize(
    ("tags", "chosen"),
    [
        (("RectangleLabels", "PolygonLabels", "BrushLabels"), "brushlabels"),
        (("RectangleLabels", "EllipseLabels", "BitmaskLabels", "PolygonLabels"), "polygonlabels"),
        (("KeyPointLabels", "RectangleLabels", "EllipseLabels", "BitmaskLabels"), "bitmasklabels"),
        (("RectangleLabels", "EllipseLabels"), "ellipselabels"),
        (("KeyPointLabels", "RectangleLabels"), "rectanglelabels"),
        (("KeyPointLabels",), "keypointlabels"),
    ],
)
def test_one_control_draws_the_one_that_says_most(tags: tuple[str, ...], chosen: str) -> None:
    (result,) = write(controls(*tags), (LEFT, 0.9, "Dog"))
    assert (result["type"], result["from_name"]) == (chosen, chosen)
    assert result["value"][chosen] == ["Dog"]


def test_a_control_that_only_prompts_draws_nothing() -> None:
    config = controls("RectangleLabels").replace('toName="image"', 'toName="image" smartOnly="true"')
    both = config.replace("</View>", f'<EllipseLabels name="e" toName="image">{LABELS}</EllipseLabels></View>')
    (ellipse,) = write_prediction(task_with(both), mask_set((LEFT, 0.9, "Cat")), "v1", "rectangle")["result"]
    assert ellipse["type"] == "ellipselabels", "whatever shape is preferred"
    assert write(config, (LEFT, 0.9, "Cat"))[0]["type"] == "rectanglelabels", "unless it is all there is"


def test_a_control_with_a_role_draws_nothing() -> None:
    config = controls("PolygonLabels", "RectangleLabels").replace('"polygonlabels"', '"outline" maskloom="for"')
    assert write(config, (LEFT, 0.9, "Cat"))[0]["type"] == "rectanglelabels"


def test_a_label_that_the_best_control_lacks_is_drawn_by_the_next_that_has_it() -> None:
    config = controls("BrushLabels", labels='<Label value="Cat"/>').replace(
        "</View>", f'<PolygonLabels name="p" toName="image">{LABELS}</PolygonLabels></View>'
    )
    kinds = [result["type"] for result in write(config, (LEFT, 0.9, "Cat"), (RIGHT, 0.9, "Dog"))]
    assert kinds == ["brushlabels", "polygonlabels"]


def test_with_separate_labels_a_region_is_two_results_of_one_id() -> None:
    shape, label = write_prediction(only_task(body("interactive_separated_controls")), mask_set((LEFT, 0.9, "Dog")), "v1")[
        "result"
    ]
    assert shape["id"] == label["id"]
    assert (shape["type"], shape["from_name"]) == ("brush", "brush")
    assert (label["type"], label["from_name"]) == ("labels", "label")
    assert label["value"] == {**shape["value"], "labels": ["Dog"]}
    assert "labels" not in shape["value"]


def test_a_control_of_another_image_draws_nothing() -> None:
    config = f"""<View><Image name="image" value="$image"/><Image name="other" value="$image"/>
        <BrushLabels name="b" toName="other">{LABELS}</BrushLabels>
        <PolygonLabels name="p" toName="image">{LABELS}</PolygonLabels></View>"""
    assert only_task(prompted(config=config)).labels.image.name == "image"
    assert [result["from_name"] for result in write(config, (LEFT, 0.9, "Cat"))] == ["p"]


def test_a_region_on_a_page_says_which_page() -> None:
    task = only_task(body("interactive_multi_image_item2"))
    assert write_prediction(task, mask_set((LEFT, 0.9, "Cat")), "v1")["result"][0]["item_index"] == 2
    assert "item_index" not in write(controls("BrushLabels"), (LEFT, 0.9, "Cat"))[0]


def test_a_label_is_answered_under_its_value_with_any_characters() -> None:
    config = controls("BrushLabels", labels='<Label value="R&amp;D &lt;1&gt;" alias="lab"/>')
    assert [result["value"]["brushlabels"] for result in write(config, (LEFT, 0.9, "R&D <1>"), (RIGHT, 0.9, "lab"))] == [
        ["R&D <1>"]
    ] * 2


def test_a_region_without_a_name_takes_the_armed_label_or_the_only_one() -> None:
    armed = write_prediction(only_task(body("interactive_rectangle")), mask_set((LEFT, 0.9, None)), "v1")["result"]
    assert armed[0]["value"]["brushlabels"] == ["Dog"]
    only = write(controls("BrushLabels", labels='<Label value="Cell"/>'), (LEFT, 0.9, None))
    assert only[0]["value"]["brushlabels"] == ["Cell"]


@pytest.mark.parametrize("label", ["Bird", None])
def test_a_name_that_is_not_in_the_config_is_never_written(label: str | None) -> None:
    task = only_task(body("interactive_textarea"))
    prediction = write_prediction(task, mask_set((LEFT, 0.9, label), (RIGHT, 0.9, "Cat")), "v1")
    assert [result["value"]["brushlabels"] for result in prediction["result"]] == [["Cat"]]
    (message,) = write_prediction(task, mask_set((LEFT, 0.9, label)), "v1")["result"]
    assert str(label) in message["value"]["text"][0]


@pytest.mark.parametrize("name", ["predict_preannotation_open_task", "interactive_textarea"])
def test_an_empty_mask_is_no_region(name: str) -> None:
    nothing = np.zeros_like(LEFT)
    assert write_prediction(only_task(body(name)), mask_set((nothing, 0.9, "Cat")), "v1") == write_empty("v1")
    some = write_prediction(only_task(body(name)), mask_set((nothing, 0.9, "Cat"), (LEFT, 0.5, "Cat")), "v1")
    assert (len(some["result"]), some["score"]) == (1, 0.5)


def test_every_part_of_a_region_is_a_polygon_with_the_region_s_score() -> None:
    results = write(controls("PolygonLabels"), (LEFT | RIGHT, 0.75, "Cat"))
    assert [result["score"] for result in results] == [0.75, 0.75]
    assert len({result["id"] for result in results}) == 2
    assert all(result["meta"]["text"][0].endswith("polygon IoU 1.000") for result in results)


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([point(1, 1)], "1 click"),
        ([point(1, 1), point(2, 2), point(3, 3, is_positive=False)], "2 clicks, 1 click against"),
        ([box(1, 1, 2, 2), box(5, 5, 2, 2)], "2 boxes"),
        ([text("cup, not the saucer")], 'text "cup", not "saucer"'),
    ],
)
def test_the_meta_text_says_which_prompt_made_it(items: list[dict[str, Any]], words: str) -> None:
    task = task_with(body("interactive_textarea")["label_config"], *items)
    (result,) = write_prediction(task, mask_set((LEFT, 0.9, "Cat")), "v1")["result"]
    assert result["meta"] == {"text": [words]}


def test_a_message_is_on_its_page_where_the_text_area_has_one_text_for_each_page() -> None:
    request = body("interactive_multi_image_item2")
    request[
        "label_config"
    ] = """<View><Image name="image" valueList="$images"/><TextArea name="text" toName="image" perItem="true"/>
        <KeyPointLabels name="kp" toName="image"><Label value="Cat"/></KeyPointLabels></View>"""
    (message,) = write_message(only_task(request), "sorry", "v1")["result"]
    assert message["item_index"] == 2
    request["label_config"] = request["label_config"].replace(' perItem="true"', "")
    (message,) = write_message(only_task(request), "sorry", "v1")["result"]
    assert "item_index" not in message


def test_the_meta_text_of_a_pre_annotation_names_the_label() -> None:
    task = only_task(body("predict_preannotation_open_task"))
    assert write_prediction(task, mask_set((LEFT, 0.9, "Cat")), "v1")["result"][0]["meta"] == {"text": ['label name "Cat"']}


def test_a_message_is_a_text_area_result() -> None:
    (message,) = write_message(only_task(body("interactive_keypoint_1")), "the image cannot be read", "v1")["result"]
    assert (message["type"], message["from_name"], message["to_name"]) == ("textarea", "prompt", "image")
    assert message["value"] == {"text": ["⚠ the image cannot be read"]}
    assert "item_index" not in message


def test_a_message_goes_to_a_text_area_of_that_name_when_there_is_one() -> None:
    config = controls("BrushLabels", "TextArea").replace("</View>", '<TextArea name="Message" toName="image"/></View>')
    (message,) = write_message(task_with(config, text("x", from_name="textarea")), "no", "v1")["result"]
    assert message["from_name"] == "Message"


@pytest.mark.parametrize("name", ["predict_preannotation_open_task", "interactive_separated_controls"])
def test_without_an_annotator_or_a_text_area_a_message_is_an_empty_prediction(name: str) -> None:
    assert write_message(only_task(body(name)), "no", "v1") == write_empty("v1")


def test_a_prediction_is_plain_json() -> None:
    prediction = write_prediction(only_task(body("interactive_textarea")), mask_set((LEFT, 1 / 3, "Cat")), "v1")
    assert json.loads(json.dumps(prediction, allow_nan=False)) == prediction


@pytest.mark.slow
def test_label_studio_s_own_check_accepts_every_form_of_prediction(tmp_path: Path) -> None:
    python = STUDIO.venv / "bin" / "python"
    if not python.is_file():
        pytest.skip(f"no Label Studio in {python.parent.parent}; `make test` installs it")
    rows = mask_set((LEFT | RIGHT, 0.9, "Cat"), (RIGHT, 0.5, "Dog"))
    forms = (
        "BrushLabels",
        "PolygonLabels",
        "BitmaskLabels",
        "VectorLabels",
        "EllipseLabels",
        "RectangleLabels",
        "KeyPointLabels",
    )
    requests = [*(prompted(config=controls(form)) for form in forms), body("interactive_separated_controls")]
    written = [(request["label_config"], write_prediction(only_task(request), rows, "v1")) for request in requests]
    talking = body("interactive_keypoint_1")
    written.append((talking["label_config"], write_message(only_task(talking), "no", "v1")))
    (tmp_path / "written.json").write_text(json.dumps(written))
    found = subprocess.run([python, "-c", CHECK, tmp_path / "written.json"], capture_output=True, text=True, check=True).stdout
    assert json.loads(found.splitlines()[-1]) == [[]] * len(written)


OUTPUTS = """<View><Image name="image" value="$image"/>
    <BrushLabels name="b" toName="image"><Label value="Cat"/><Label value="Dog" maskloom-output="polygon"/>
        <Label value="Car" alias="auto" maskloom-output="Rectangle"/></BrushLabels>
    <PolygonLabels name="p" toName="image"><Label value="Cat"/><Label value="Dog"/></PolygonLabels>
    <RectangleLabels name="r" toName="image"><Label value="Cat"/><Label value="Dog"/><Label value="Car"/></RectangleLabels>
    </View>"""


def test_each_label_is_drawn_in_the_shape_that_it_asks_for() -> None:
    kinds = {label: write(OUTPUTS, (LEFT, 0.9, label))[0]["type"] for label in ("Cat", "Dog", "Car")}
    assert kinds == {"Cat": "brushlabels", "Dog": "polygonlabels", "Car": "rectanglelabels"}


def test_a_label_s_own_shape_goes_before_the_project_s() -> None:
    rows = mask_set((LEFT, 0.9, "Cat"), (RIGHT, 0.9, "Dog"))
    result = write_prediction(task_with(OUTPUTS), rows, "v1", "rectangle")["result"]
    assert [item["type"] for item in result] == ["rectanglelabels", "polygonlabels"]


def test_a_label_asks_for_its_shape_among_separate_tools_too() -> None:
    xml = """<View><Image name="image" value="$image"/><Brush name="b" toName="image"/><Polygon name="p" toName="image"/>
        <Labels name="l" toName="image"><Label value="Cat"/><Label value="Dog" maskloom-output="polygon"/></Labels></View>"""
    assert [item["type"] for item in write(xml, (LEFT, 0.9, "Dog"))] == ["polygon", "labels"]
    assert [item["type"] for item in write(xml, (LEFT, 0.9, "Cat"))] == ["brush", "labels"]


def test_a_label_that_asks_for_a_shape_that_does_not_exist_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="maskloom-output='mask'; it can be brush, polygon"):
        read_config(OUTPUTS.replace("Rectangle", "mask", 1))
