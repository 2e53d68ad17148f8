"""Labelling configs: what they offer, whatever their form."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.labelstudio.config import MOST_REPEATED, ImageLabels, ImageTag, lookup, read_config
from backend.values.errors import ConfigError

BOTH = '<Label value="Cat"/><Label value="Dog"/>'
SIMPLE = f'<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">{BOTH}</BrushLabels></View>'


def view(*tags: str) -> str:
    return f'<View><Image name="i" value="$i"/>{"".join(tags)}</View>'


def brush(labels: str, attributes: str = "") -> str:
    return view(f'<BrushLabels name="b" toName="i" {attributes}>{labels}</BrushLabels>')


def only_image(xml: str) -> ImageLabels:
    config = read_config(xml)
    return config.labels_of(config.images[0])


def test_images_controls_and_labels_are_read_in_order() -> None:
    config = read_config(SIMPLE)
    (image,), (control,) = config.images, config.controls
    assert (image.name, image.data_key) == ("image", "image")
    assert (control.name, control.to_names, control.type) == ("brush", ("image",), "brushlabels")
    assert control.labels == ("Cat", "Dog")
    assert config.vocabulary.labels == ("Cat", "Dog")
    assert config.control("brush") is control
    assert config.control("elsewhere") is None


def test_a_config_is_read_once() -> None:
    assert read_config(SIMPLE) is read_config(str(SIMPLE))


def test_a_value_list_is_an_image_of_several_pages() -> None:
    (image,) = read_config('<View><Image name="i" valueList="$pages"/></View>').images
    assert image.data_key == "pages"


def test_nested_and_hidden_views_are_looked_through() -> None:
    control = f'<BrushLabels name="b" toName="i">{BOTH}</BrushLabels>'
    assert read_config(view(f'<View style="display:none"><View>{control}</View></View>')).vocabulary.labels == ("Cat", "Dog")


def test_labels_in_a_view_inside_their_control_are_found() -> None:
    assert read_config(brush(f"<View>{BOTH}</View>")).controls[0].labels == ("Cat", "Dog")


def test_each_label_comes_once_however_many_controls_have_it() -> None:
    separate = f'<Brush name="br" toName="i"/><Labels name="l" toName="i">{BOTH}</Labels>'
    points = f'<KeyPointLabels name="k" toName="i">{BOTH}<Label value="Bird"/></KeyPointLabels>'
    assert read_config(view(separate, points)).vocabulary.labels == ("Cat", "Dog", "Bird")


@pytest.mark.parametrize(
    ("attributes", "phrases"),
    [
        ('predicted_values="kitten, house cat,"', ("felis", "kitten", "house cat")),
        ('hint="kitten, house_cat"', ("felis", "kitten", "house cat")),
        ('predicted_values="kitten" hint="press 1"', ("felis", "kitten")),
        ('alias="cat"', ("felis", "cat")),
        ('alias="cat" predicted_values="kitten"', ("felis", "cat", "kitten")),
        ("", ("felis",)),
    ],
)
def test_a_label_has_phrases_from_its_attributes(attributes: str, phrases: tuple[str, ...]) -> None:
    assert read_config(brush(f'<Label value="Felis" {attributes}/>')).vocabulary.entries[0].phrases == phrases


def test_the_phrases_of_one_label_in_several_controls_add_up() -> None:
    brushes = '<BrushLabels name="b" toName="i"><Label value="A" predicted_values="x"/></BrushLabels>'
    polygons = '<PolygonLabels name="p" toName="i"><Label value="A" predicted_values="y"/></PolygonLabels>'
    assert read_config(view(brushes, polygons)).vocabulary.entries[0].phrases == ("a", "x", "y")


@pytest.mark.parametrize(
    ("sent", "value"),
    [("Cat", "Cat"), ("cat", "cat"), ("gato", "Cat"), ("CAT", "Cat"), ("kittens", "cat"), ("Bird", None)],
)
def test_what_the_page_sends_is_turned_into_the_label_s_value(sent: str, value: str | None) -> None:
    """Label Studio stores a label's alias in place of its value, and labels may differ in case only."""
    labels = '<Label value="Cat" alias="gato"/><Label value="cat" predicted_values="kitten"/>'
    assert only_image(brush(labels)).value_of(sent) == value


def test_an_alias_as_it_is_written_goes_before_a_label_that_only_sounds_like_it() -> None:
    assert only_image(brush('<Label value="Cats"/><Label value="Felis" alias="cat"/>')).value_of("cat") == "Felis"


def test_entities_in_labels_are_read_as_what_they_stand_for() -> None:
    labels = '<Label value="R&amp;D &lt;1&gt;"/><Label value="&#x4FE1;&#21495; &quot;x&quot;"/>'
    assert read_config(brush(labels)).vocabulary.labels == ("R&D <1>", '信号 "x"')


def test_attribute_and_tag_names_are_read_in_any_case() -> None:
    control = '<brushlabels name="b" toname="i" SmartOnly="True"><label value="A"/></brushlabels>'
    xml = f'<view><image NAME="i" valuelist="$i"/>{control}</view>'
    config = read_config(xml)
    assert config.images[0].data_key == "i"
    assert config.controls[0].is_smart_only
    assert config.controls[0].labels == ("A",)


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<View><Image name='i' value='$i'></View>", "not well-formed XML.*line 1"),
        ("", "not well-formed"),
        ("image", "not well-formed"),
        ("<View>\ud800</View>", "not well-formed"),
        ("<View>\x00</View>", "not well-formed"),
        ("<View>&nbsp;</View>", "not well-formed"),
        ("<View><Text name='t' value='$t'/></View>", "no <Image> tag"),
        ("<!DOCTYPE View><View><Image name='i' value='$i'/></View>", "document type"),
    ],
)
def test_a_config_that_cannot_be_used_says_why(xml: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(xml)


def test_an_entity_bomb_is_refused_before_it_grows() -> None:
    levels = "".join(f'<!ENTITY e{k} "{f"&e{k - 1};" * 10}">' for k in range(1, 12))
    bomb = f'<!DOCTYPE View [<!ENTITY e0 "ha">{levels}]>' + brush('<Label value="&e11;"/>')
    start = time.monotonic()
    with pytest.raises(ConfigError, match="document type"):
        read_config(bomb)
    assert time.monotonic() - start < 1


def test_an_external_entity_is_not_opened(tmp_path: Any) -> None:
    (tmp_path / "secret").write_text("secret")
    xml = f'<!DOCTYPE View [<!ENTITY s SYSTEM "file://{tmp_path}/secret">]>' + brush('<Label value="&s;"/>')
    with pytest.raises(ConfigError, match="document type"):
        read_config(xml)


@pytest.mark.parametrize(
    "given_labels",
    [
        ["Cat", "Dog"],
        [{"value": "Cat", "background": "red"}, {"value": "Dog"}],
        ["Cat", None, 5, {}, {"value": 3}, {"value": "Dog"}],
    ],
)
def test_dynamic_labels_come_from_the_task(given_labels: list[Any]) -> None:
    config = read_config(brush("", 'value="$labels"'))
    assert config.vocabulary.labels == ()
    assert config.for_task({"labels": given_labels}).vocabulary.labels == ("Cat", "Dog")


def test_dynamic_labels_join_the_fixed_ones_and_bring_their_phrases() -> None:
    config = read_config(brush('<Label value="Bird"/>', 'value="$meta.labels"'))
    full = config.for_task({"meta": {"labels": [{"value": "Cat", "hint": "kitten"}]}})
    assert [entry.phrases for entry in full.vocabulary.entries] == [("bird",), ("cat", "kitten")]


@pytest.mark.parametrize("data", [{}, {"labels": "Cat"}, {"labels": {"Cat": 1}}, {"labels": None}])
def test_without_labels_in_the_task_a_dynamic_control_has_none(data: dict[str, Any]) -> None:
    assert read_config(brush("", 'value="$labels"')).for_task(data).vocabulary.labels == ()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("$image", "a.png"),
        ("$deep.list[1]", "c.png"),
        ("$dotted.key", "d.png"),
        ("http://host/$image?x=1", "http://host/a.png?x=1"),
        ("http://host/fixed.png", "http://host/fixed.png"),
        ("$absent", None),
        ("$deep.list[7]", None),
        ("$image.more", None),
    ],
)
def test_a_source_is_looked_up_in_the_task_s_data(source: str, found: str | None) -> None:
    data = {"image": "a.png", "deep": {"list": ["b.png", "c.png"]}, "dotted.key": "d.png"}
    assert lookup(source, data) == found


def test_a_text_area_of_single_regions_is_none_of_the_image() -> None:
    notes, prompt = '<TextArea name="a" toName="i" perRegion="true"/>', '<TextArea name="b" toName="i"/>'
    xml = view(notes, prompt, '<TextArea name="c" toName="j"/>')
    assert [area.name for area in only_image(xml).text_areas] == ["b"]


@given(st.text() | st.text("<>/&;!\"'= ViewImagenalut$", max_size=80))
def test_any_text_is_a_config_or_a_config_error(xml: str) -> None:
    try:
        assert read_config(xml).images
    except ConfigError:
        return


TWO_IMAGES = """<View><Image name="left" value="$l"/><Image name="right" value="$r"/><Text name="text" value="$t"/>
    <BrushLabels name="a" toName="left"><Label value="Cat" predicted_values="kitten"/></BrushLabels>
    <BrushLabels name="b" toName="right"><Label value="cat" maskloom-output="polygon"/></BrushLabels>
    <BrushLabels name="both" toName="left, right"><Label value="Dog"/></BrushLabels>
    <Labels name="ner" toName="text"><Label value="CAT"/><Label value="kitten"/><Label value="word" maskloom="for"/></Labels>
    </View>"""


def test_labels_of_a_text_or_of_another_image_mean_nothing_on_an_image() -> None:
    config = read_config(TWO_IMAGES)
    left, right = map(config.labels_of, config.images)
    assert (left.vocabulary.labels, right.vocabulary.labels) == (("Cat", "Dog"), ("cat", "Dog"))
    assert [labels.value_of("CAT") for labels in (left, right)] == ["Cat", "cat"]
    assert [labels.value_of("kitten") for labels in (left, right)] == ["Cat", None]
    assert [labels.output_of("cat") for labels in (left, right)] == ["", "polygon"]
    assert left.role_of("ner", "word") is None
    assert config.vocabulary.labels == ("Cat", "Dog", "cat")


def test_a_tag_may_be_about_two_images() -> None:
    config = read_config(TWO_IMAGES)
    assert [[control.name for control in config.labels_of(image).controls] for image in config.images] == [
        ["a", "both"],
        ["b", "both"],
    ]


REPEATER = """<View><Repeater on="$pages" indexFlag="{{i}}"><View><Image name="page_{{i}}" value="$pages[{{i}}].url"/>
    <BrushLabels name="brush_{{i}}" toName="page_{{i}}"><Label value="Cat"/></BrushLabels></View></Repeater></View>"""


@pytest.mark.parametrize("count", [1, 3])
def test_a_repeater_is_read_as_its_tags_once_for_each_item_of_the_task(count: int) -> None:
    config = read_config(REPEATER).for_task({"pages": [{"url": f"{k}.png"} for k in range(count)]})
    assert [(image.name, image.source) for image in config.images] == [(f"page_{k}", f"$pages[{k}].url") for k in range(count)]
    assert [config.labels_of(image).controls[0].name for image in config.images] == [f"brush_{k}" for k in range(count)]


def test_a_repeater_in_a_repeater_and_very_many_items_are_read_in_bounds() -> None:
    tag = '<Image name="i{{idx}}{{j}}" value="$a[{{idx}}].b[{{j}}]"/>'
    nested = (
        f'<View><Repeater on="$a"><Repeater on="$a[{{{{idx}}}}].b" indexFlag="{{{{j}}}}">{tag}</Repeater></Repeater></View>'
    )
    images = read_config(nested).for_task({"a": [{"b": ["x", "y"]}, {"b": ["z"]}]}).images
    assert [image.source for image in images] == ["$a[0].b[0]", "$a[0].b[1]", "$a[1].b[0]"]
    assert len(read_config(REPEATER).for_task({"pages": [{"url": "x"}] * 1000}).images) == MOST_REPEATED


@pytest.mark.parametrize("data", [{}, {"pages": []}, {"pages": "x"}, {"pages": None}])
def test_a_repeater_over_nothing_shows_no_image(data: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="the task has no image: the list that its <Repeater> goes through is empty"):
        read_config(REPEATER).for_task(data)


def test_labels_are_compared_by_all_that_they_say_and_shown_in_few_words() -> None:
    """A request with thousands of labels is compared with others at each click."""
    xml = '<View><Image name="i" value="$i"/><BrushLabels name="b" toName="i"><Label value="{}"/></BrushLabels></View>'
    one, same, other = (read_config(xml.format(label)).labels_of(ImageTag("i", "$i")) for label in ("a", "a", "b"))
    assert repr(one) == repr(same) != repr(other)
    assert len(repr(read_config(xml.format("a" * 10_000)).labels_of(ImageTag("i", "$i")))) < 100
