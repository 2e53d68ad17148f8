"""Attributes of single tags: Choices and Taxonomies that name regions; how masks are drawn, and what is too small."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backend.labelstudio.answer import write_prediction
from backend.labelstudio.config import ImageLabels, read_config
from backend.labelstudio.request.context import examples_of
from backend.labelstudio.request.request import read_predict
from backend.labelstudio.request.video import read_videos
from backend.labelstudio.shapes import mask_of
from backend.labelstudio.shapes.outlined import write_polygon
from backend.labelstudio.tags import read_drawing
from backend.values.errors import ConfigError
from backend.values.masks import Masks, MaskSet, RunLengths
from backend.values.morphology import smooth, smooth_runs
from prompts.geometry import Size
from tests.backend.labelstudio.test_answer import LEFT, RIGHT, mask_set, task_with
from tests.backend.pictures import disc, square

TREE = """<Taxonomy name="kind" toName="image" perRegion="true" maskloom="names">
    <Choice value="Animal"><Choice value="Cat" hint="kitten, tom cat"/><Choice value="Dog"/></Choice>
    <Choice value="Thing"><Choice value="Tool"><Choice value="RedHammer"/></Choice></Choice></Taxonomy>"""
FLAT = """<Choices name="look" toName="image" perRegion="true" choice="multiple" maskloom="names" maskloom-top="2">
    <Choice value="striped"/><Choice value="plain"/><Choice value="spotted"/></Choices>"""
ONE, TWO = '<Label value="thing"/>', '<Label value="Cat"/><Label value="Dog"/>'


def config(*tags: str, labels: str = ONE, shape: str = "BrushLabels") -> str:
    inner = "".join(tags)
    return f'<View><Image name="image" value="$image"/><{shape} name="mask" toName="image">{labels}</{shape}>{inner}</View>'


def labels_of(xml: str) -> ImageLabels:
    config = read_config(xml)
    return config.labels_of(config.first_image)


def write(xml: str, label: str | None, **names: Any) -> list[dict[str, Any]]:
    return list(write_prediction(task_with(xml), mask_set((LEFT, 0.9, label)), "v1", "", names)["result"])


def test_the_leaves_of_a_taxonomy_are_what_is_looked_for_when_one_label_carries_all_masks() -> None:
    entries = {entry.label: entry.phrases for entry in read_config(config(TREE)).vocabulary.entries}
    assert entries == {
        "Animal / Cat": ("cat", "kitten", "tom cat"),
        "Animal / Dog": ("dog",),
        "Thing / Tool / RedHammer": ("red hammer",),
    }


def test_with_several_labels_those_are_looked_for_and_the_taxonomy_only_names() -> None:
    assert read_config(config(TREE, labels=TWO)).vocabulary.labels == ("Cat", "Dog")


def test_choices_about_regions_that_are_not_said_to_be_names_are_the_annotator_s() -> None:
    xml = config(FLAT.replace('maskloom="names" maskloom-top="2"', ""))
    assert read_config(xml).vocabulary.labels == ("thing",)
    assert [item["type"] for item in write(xml, "thing")] == ["brushlabels"]


def test_a_region_is_written_with_the_one_label_and_the_path_under_the_same_id() -> None:
    mask, named = write(config(TREE), "Thing / Tool / RedHammer")
    assert mask["value"]["brushlabels"] == ["thing"]
    assert (named["id"], named["from_name"], named["type"]) == (mask["id"], "kind", "taxonomy")
    assert named["value"] == {"taxonomy": [["Thing", "Tool", "RedHammer"]]}
    assert mask["meta"]["text"] == ['label name "Thing / Tool / RedHammer"']


def test_a_tool_without_labels_draws_what_a_taxonomy_names() -> None:
    mask, named = write(config(TREE, labels="", shape="Brush"), "Animal / Dog")
    assert mask["type"] == "brush"
    assert set(mask["value"]) == {"format", "rle"}
    assert named["value"] == {"taxonomy": [["Animal", "Dog"]]}


def test_choices_get_as_many_of_the_likeliest_names_as_they_ask_for() -> None:
    ranked = [["spotted", "plain", "striped"]]
    _, named = write(config(FLAT, labels=TWO), "Cat", look=ranked)
    assert named["value"] == {"choices": ["spotted", "plain"]}
    single = FLAT.replace('choice="multiple"', 'choice="single"')
    _, named = write(config(single, labels=TWO), "Cat", look=ranked)
    assert named["value"] == {"choices": ["spotted"]}


def test_each_row_gets_its_own_names() -> None:
    rows = mask_set((LEFT, 0.9, "Cat"), (RIGHT, 0.8, "Dog"))
    names = {"look": [["plain"], ["striped"]]}
    result = write_prediction(task_with(config(FLAT, labels=TWO)), rows, "v1", "", names)["result"]
    assert [item["value"].get("choices") for item in result] == [None, ["plain"], None, ["striped"]]


def test_without_a_name_that_is_offered_nothing_is_chosen() -> None:
    assert [item["type"] for item in write(config(FLAT, labels=TWO), "Cat")] == ["brushlabels"]


def test_what_was_accepted_under_a_path_is_an_example_of_it() -> None:
    mask, named = write(config(TREE), "Animal / Dog")
    (example,) = examples_of({"result": [mask, named]}, labels_of(config(TREE)))
    assert example.label == "Animal / Dog"
    (unnamed,) = examples_of({"result": [mask]}, labels_of(config(TREE)))
    assert unnamed.label == "thing"


@pytest.mark.parametrize(
    "value",
    [None, {}, {"taxonomy": None}, {"taxonomy": []}, {"taxonomy": [[]]}, {"taxonomy": [[["x"]]]}, {"taxonomy": [["Animal"]]}],
)
def test_a_name_that_cannot_be_read_leaves_the_label(value: Any) -> None:
    mask, named = write(config(TREE), "Animal / Dog")
    (example,) = examples_of({"result": [mask, {**named, "value": value}]}, labels_of(config(TREE)))
    assert example.label == "thing"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (TREE.replace('perRegion="true"', ""), 'add perRegion="true"'),
        (FLAT.replace('top="2"', 'top="many"'), "can be 1 to 20"),
        (FLAT.replace('top="2"', 'top="0"'), "can be 1 to 20"),
    ],
)
def test_a_tag_that_cannot_name_regions_says_why(wrong: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(config(wrong))


def test_beside_a_video_choices_that_name_regions_are_no_tool_that_draws_on_it() -> None:
    """Their attribute is no role: such a project was refused as a whole when it was looked through for films."""
    names = '<Choices name="which" toName="it" perRegion="true" maskloom="names"><Choice value="a"/></Choices>'
    drawing = '<VideoRectangle name="box" toName="it"/>'
    (video,) = read_videos(f'<View><Video name="it" value="$video"/>{drawing}{names}</View>')
    assert [control.name for control in video.controls] == ["box"]
    assert read_videos(f'<View><Image name="it" value="$image"/>{names}</View>') == ()


SIZE = Size(200, 300)


def answered(attributes: str, mask: np.ndarray, label: str = "") -> list[dict]:
    config = (
        f'<View><Image name="image" value="$image"/><PolygonLabels name="outline" toName="image" {attributes}>'
        f'<Label value="cup" {label}/></PolygonLabels></View>'
    )
    (task,) = read_predict({"label_config": config, "tasks": [{"id": 1, "data": {"image": "/a.png"}}]})
    one = MaskSet(
        Masks.of([mask], SIZE), np.ones(1, np.float32), ("cup",), np.zeros((1, 1, 1), np.float16), np.zeros((1, 1), np.float32)
    )
    return list(write_prediction(task, one, "v1")["result"])  # type: ignore[arg-type]


def test_a_budget_of_points_is_kept_and_the_label_goes_before_its_tag() -> None:
    mask = disc(200, 300, 150, 100, 80)
    counts = {}
    for name, attributes, label in (
        ("none", "", ""),
        ("tag", 'maskloom-points="12"', ""),
        ("label", 'maskloom-points="12"', 'maskloom-points="6"'),
    ):
        (region,) = answered(attributes, mask, label)
        counts[name] = len(region["value"]["points"])
    assert counts["label"] <= 6 < counts["tag"] <= 12 < counts["none"] <= 100


@pytest.mark.parametrize("points", [3, 4, 8, 20])
def test_a_mask_with_many_holes_keeps_its_budget_by_filling_the_smallest(points: int) -> None:
    mask = square(200, 300, 50, 10, 180)
    for row in range(4):
        for column in range(4):
            mask &= ~square(200, 300, 62 + 44 * column, 22 + 44 * row, 24)
    (shape,) = write_polygon(RunLengths.of(mask), points)
    assert len(shape.value["points"]) <= max(points, 4)


def test_small_suggestions_are_left_out_and_rough_ones_are_smoothed() -> None:
    assert answered('maskloom-min-area="400"', square(200, 300, 20, 20, 19)) == []
    assert len(answered('maskloom-min-area="400"', square(200, 300, 20, 20, 20))) == 1
    rough = square(200, 300, 0, 40, 80)
    rough[80, 80:140] = True
    (region,) = answered('maskloom-smooth="3"', rough)
    assert not mask_of(region, SIZE)[80, 90:].any()


@pytest.mark.parametrize("mask", [square(200, 300, 0, 0, 60), square(200, 300, 100, 50, 90) & ~disc(200, 300, 140, 90, 12)])
def test_smoothing_a_window_is_smoothing_the_image(mask: np.ndarray) -> None:
    refined = smooth_runs(RunLengths.of(mask), 4).decode()
    assert np.array_equal(refined, smooth(mask, 4))


@pytest.mark.parametrize(
    "attribute",
    ['maskloom-points="2"', 'maskloom-points="x"', 'maskloom-smooth="-1"', 'maskloom-min-area="1e3"', 'maskloom-output="x"'],
)
def test_a_value_that_cannot_be_is_told_when_the_config_is_read(attribute: str) -> None:
    name = attribute.partition("=")[0]
    with pytest.raises(ConfigError, match=name):
        read_drawing({name: attribute.partition("=")[2].strip('"')})
    label = f'<Label value="a" {attribute}/>'
    with pytest.raises(ConfigError, match=name):
        read_config(f'<View><Image name="i" value="$i"/><BrushLabels name="b" toName="i">{label}</BrushLabels></View>')
