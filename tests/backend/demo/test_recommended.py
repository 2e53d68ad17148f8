from __future__ import annotations

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from backend.demo.recommended import recommended_config
from backend.labelstudio.config import read_config

LABELS = st.lists(st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1), min_size=1, unique=True)


@given(LABELS)
def test_every_control_has_every_label_whatever_it_is_called(labels: list[str]) -> None:
    root = ElementTree.fromstring(recommended_config(labels))
    controls = [tag for tag in root.iter() if tag.tag.endswith("Labels")]
    assert {tag.tag for tag in controls} == {"BrushLabels", "KeyPointLabels", "RectangleLabels", "PolygonLabels"}
    assert all([label.get("value") for label in tag] == labels for tag in controls)


def test_points_boxes_and_words_prompt_and_brushes_hold_the_masks() -> None:
    config = read_config(recommended_config(["cat", "cup & saucer"]))
    controls = {control.type: control for control in config.controls}
    assert controls["keypointlabels"].is_smart_only
    assert controls["rectanglelabels"].is_smart_only
    assert not controls["brushlabels"].is_smart_only
    assert controls["brushlabels"].labels == ("cat", "cup & saucer")
    assert [area.name for area in config.labels_of(config.first_image).text_areas] == ["prompt"]


def test_neighbouring_labels_have_different_colours() -> None:
    root = ElementTree.fromstring(recommended_config([f"label {i}" for i in range(10)]))
    brush = next(root.iter("BrushLabels"))
    assert len({label.get("background") for label in brush}) == 10
