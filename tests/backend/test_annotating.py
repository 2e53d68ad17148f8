"""An annotator's work over HTTP and the colour engine: what is clicked, boxed, typed and drawn by hand prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from backend.assemble import Parts
from backend.labelstudio.shapes import painted as rle
from backend.stores.sessions import SessionStore
from backend.values.errors import StoreError
from prompts.geometry import Size
from tests.backend.annotator import (
    HEIGHT,
    SHAPES,
    WIDTH,
    Annotator,
    box,
    click,
    found,
    shape_of,
    stroke,
    typed,
)


def test_a_scribble_and_this_give_the_shape_under_it(ann: Annotator) -> None:
    ann.drawn = [stroke("this", 25, 45, 45, 45)]
    (region,) = ann.ask(typed("this"))
    assert shape_of(region) == "left"
    assert region["meta"]["text"] == ["1 mark"]


def test_a_scribble_against_takes_its_shape_away_from_the_clicks(ann: Annotator) -> None:
    ann.drawn = [stroke("not this", 90, 40, 100, 40)]
    assert found(ann.ask(click(35, 45), click(94, 38))) == [("Ball", "left")]


def test_a_phrase_names_what_is_scribbled(ann: Annotator) -> None:
    ann.drawn = [stroke("this", 125, 40, 140, 45)]
    assert found(ann.ask(typed("box"))) == [("Box", "blue")]


def test_a_message_ends_nothing_when_the_page_has_saved_it(ann: Annotator) -> None:
    """The page takes a message over at once, under the id that we gave it, as it does with an accepted mask."""
    ann.drawn = [stroke("this", 25, 45, 45, 45)]
    (message,) = ann.ask(typed("like giraffe"))
    assert message["type"] == "textarea"
    ann.drawn = [*ann.drawn, {**message, "origin": "manual"}]
    assert [shape_of(region) for region in ann.ask(typed("this"))] == ["left"]


def test_this_with_nothing_marked_is_answered_in_words_and_an_empty_text_is_not(ann: Annotator) -> None:
    (message,) = ann.ask(typed("this"))
    assert "nothing is marked" in message["value"]["text"][0]
    assert ann.ask(typed(" ")) == []


def test_an_accepted_mask_ends_its_scribble(ann: Annotator) -> None:
    ann.drawn = [stroke("this", 25, 45, 45, 45)]
    (accepted,) = ann.ask(typed("this"))
    ann.drawn = [*ann.drawn, {**accepted, "origin": "manual"}]
    assert found(ann.ask(click(130, 40, "Box"))) == [("Box", "blue")]


def test_a_click_keeps_to_the_box_that_was_drawn_before_until_the_box_is_deleted(ann: Annotator) -> None:
    upper = SHAPES["left"][0] & (np.mgrid[:HEIGHT, :WIDTH][0] < 45)
    for regions in (ann.ask(box(5, 15, 55, 30)), both := ann.ask(click(35, 40))):
        (mask,) = (rle.decode(region["value"]["rle"], Size(HEIGHT, WIDTH)) for region in regions)
        assert (mask & upper).sum() / (mask | upper).sum() > 0.95
    assert both[0]["meta"]["text"] == ["1 click, 1 box"]
    ann.drawn = [click(35, 40)]
    assert found(ann.ask(click(35, 40), age=-1)) == [("Ball", "left")]


def test_a_deleted_click_takes_its_part_away(ann: Annotator) -> None:
    (both,) = ann.ask(click(35, 45), click(94, 38))
    union = SHAPES["left"][0] | SHAPES["right"][0]
    assert np.array_equal(rle.decode(both["value"]["rle"], Size(HEIGHT, WIDTH)), union)
    assert found(ann.ask(click(35, 45))) == [("Ball", "left")]


def test_an_answer_that_cannot_be_remembered_is_given_all_the_same(
    ann: Annotator, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise StoreError("database or disk is full")

    for verb in ("remember", "recall", "noted"):
        monkeypatch.setattr(SessionStore, verb, fail)
    assert found(ann.ask(click(35, 45))) == [("Ball", "left")]


def test_every_page_and_every_image_of_a_task_is_pre_annotated(client: TestClient, folder: Path) -> None:
    labels = '<Label value="Ball" predicted_values="red"/><Label value="Box" predicted_values="blue"/>'
    config = f"""<View><Image name="pages" valueList="$pages"/><Image name="single" value="$single"/>
        <BrushLabels name="p" toName="pages">{labels}</BrushLabels>
        <BrushLabels name="s" toName="single">{labels}</BrushLabels></View>"""
    a, b = str(folder / "a.png"), str(folder / "b.png")
    task = {"id": 1, "data": {"pages": [a, "missing.png", b], "single": a}}
    body = {"tasks": [task], "project": "1.17", "label_config": config}
    (answer,) = client.post("/predict", json=body).json()["results"]
    places = [(region["to_name"], region.get("item_index"), shape_of(region)) for region in answer["result"]]
    assert sorted(places, key=str) == sorted(
        [
            *((("pages", 0, name)) for name in ("left", "right", "blue")),
            *((("pages", 2, f"{name} mirrored")) for name in ("left", "right", "blue")),
            *((("single", None, name)) for name in ("left", "right", "blue")),
        ],
        key=str,
    )


LABELS = '<Label value="Ball" predicted_values="red"/><Label value="Box" predicted_values="blue"/>'
BRUSH_AND_BOX = f"""<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">{LABELS}</BrushLabels>
    <RectangleLabels name="rect" toName="image">{LABELS}</RectangleLabels></View>"""


def pre_annotate(client: TestClient, image: Path, extra_params: Any) -> list[dict[str, Any]]:
    """What a project with these extra parameters gets."""
    setup = {"project": "1.17", "schema": BRUSH_AND_BOX, "extra_params": extra_params}
    assert client.post("/setup", json=setup).status_code == 200
    body = {"tasks": [{"id": 1, "data": {"image": str(image)}}], "project": "1.17", "label_config": BRUSH_AND_BOX}
    (answer,) = client.post("/predict", json=body).json()["results"]
    return list(answer["result"])


def test_the_extra_parameters_of_a_project_choose_the_mode(client: TestClient, folder: Path) -> None:
    image = folder / "a.png"
    assert found(pre_annotate(client, image, None)) == [("Ball", "left"), ("Ball", "right"), ("Box", "blue")]
    both = np.count_nonzero(SHAPES["left"][0] | SHAPES["right"][0])
    assert found(pre_annotate(client, image, '{"mode": "semantic"}')) == [("Ball", f"{both} pixels"), ("Box", "blue")]
    assert [region["type"] for region in pre_annotate(client, image, {"mode": "boxes"})] == ["rectanglelabels"] * 3
    assert found(pre_annotate(client, image, {"min_area": 500})) == [("Ball", "left"), ("Box", "blue")]
    assert len(pre_annotate(client, image, {"max_regions": 1, "mode": "panoptic"})) == 1


def test_extra_parameters_that_cannot_be_meant_are_refused_at_setup(client: TestClient) -> None:
    answer = client.post("/setup", json={"project": "1.17", "extra_params": {"mode": "panoptik"}})
    assert answer.status_code == 400
    assert "'mode' can be instance, semantic, panoptic" in answer.json()["error"]


def test_prompts_on_an_image_that_is_turned_on_the_page_are_about_the_image_as_it_is(ann: Annotator) -> None:
    """Label Studio 1.23.2 sends them in percent of the image before it was turned, with its original size, and shows masks
    turned (seen with the image turned left, ``image_rotation`` 270).
    """
    turned = {"image_rotation": 270}
    assert found(ann.ask({**click(130, 40, "Box"), **turned})) == [("Box", "blue")]
    (region,) = ann.ask({**box(115, 25, 35, 20, "Box"), **turned})
    assert 0 < rle.decode(region["value"]["rle"], Size(HEIGHT, WIDTH)).sum() < SHAPES["blue"][0].sum()
    ann.drawn = [{**stroke("this", 25, 45, 45, 45), **turned}]
    assert found(ann.ask(typed("this, ball"))) == [("Ball", "left")]


def test_a_click_is_answered_with_alternatives_where_the_project_asks_for_them(ann: Annotator) -> None:
    setup = {"project": "1.17", "extra_params": {"alternatives": 2}}
    assert ann.client.post("/setup", json=setup).status_code == 200
    both = np.count_nonzero(SHAPES["left"][0] | SHAPES["right"][0])
    regions = ann.ask(click(94, 38))
    assert found(regions) == [("Ball", f"{both} pixels"), ("Ball", "right")]
    assert len({region["id"] for region in regions}) == 2
    assert found(ann.ask(click(35, 45), click(50, 40))) == [("Ball", "left")], "two clicks mean one thing"
    assert len(ann.ask(box(90, 35, 10, 10))) == 1, "so does a box"
    assert found(ann.ask(click(130, 40, "Box"))) == [("Box", "blue")], "what is the same is not offered twice"


def test_a_box_from_before_the_first_draft_told_whose_page_it_is_still_counts(ann: Annotator) -> None:
    ann.has_saved = False
    ann.ask(box(5, 15, 55, 30))
    ann.has_saved = True
    (both,) = ann.ask(click(35, 40))
    assert both["meta"]["text"] == ["1 click, 1 box"]


def test_the_same_click_again_is_answered_under_new_ids(ann: Annotator) -> None:
    """The page takes a region of a known id for that region, so that an accepted mask would be replaced."""
    (first,), (again,) = ann.ask(click(35, 45)), ann.ask(click(35, 45))
    assert first["value"] == again["value"]
    assert first["id"] != again["id"]


@pytest.mark.slow
def test_a_failure_is_no_empty_answer_and_is_not_kept(client: TestClient, folder: Path) -> None:
    """Label Studio stores nothing of a failure, and asks again; an empty prediction it would have kept for good."""
    late = folder / "late.png"
    body = {"tasks": [{"id": 1, "data": {"image": str(late)}}], "project": "1.17", "label_config": BRUSH_AND_BOX}
    (failure,) = client.post("/predict", json=body).json()["results"]
    assert "result" not in failure
    assert "there is no such file" in failure["error"]
    (folder / "a.png").rename(late)
    assert len(pre_annotate(client, late, None)) == 3
