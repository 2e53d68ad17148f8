"""Choices and Taxonomies that name regions: what they add to the vocabulary, and what is written into them."""

from __future__ import annotations

from typing import Any

import pytest

from backend.labelstudio.answer import write_prediction
from backend.labelstudio.config import ImageLabels, read_config
from backend.labelstudio.request.examples import examples_of
from backend.labelstudio.video_config import read_videos
from backend.values.errors import ConfigError
from tests.backend.labelstudio.test_answer import LEFT, RIGHT, mask_set, task_with

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
