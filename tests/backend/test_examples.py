"""Examples over HTTP and the colour engine: what was shown or accepted is found again, on the same image and on others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from backend.assemble import Parts
from tests.backend.annotator import (
    CONFIG,
    Annotator,
    box,
    click,
    found,
    picture,
    shape_of,
    stroke,
    typed,
)


def test_a_smart_box_on_an_example_finds_everything_like_it_on_the_image(ann: Annotator) -> None:
    regions = ann.ask(box(20, 30, 20, 20, "like this"))
    assert sorted(shape_of(region) for region in regions) == ["left", "right"]
    assert regions[0]["meta"]["text"] == ["1 reference"]


def test_like_a_label_finds_what_is_still_missing_on_the_same_image(ann: Annotator) -> None:
    ann.drawn = [{**ann.ask(click(35, 45))[0], "origin": "manual"}]
    assert found(ann.ask(typed("like ball"))) == [("Ball", "right")]


def test_of_what_is_on_the_image_only_the_label_s_own_regions_are_examples(ann: Annotator) -> None:
    ann.drawn = [{**ann.ask(each)[0], "origin": "manual"} for each in (click(130, 40, "Ball"), click(35, 45, "Box"))]
    (message,) = ann.ask(typed("like ball"))
    assert message["type"] == "textarea", "nothing else is blue, which is told in a sentence"
    assert found(ann.ask(typed("like box"))) == [("Box", "right")]


def test_a_reference_that_was_drawn_on_one_image_finds_its_like_on_another(client: TestClient, folder: Path) -> None:
    first, second = Annotator(client, folder / "a.png", 1), Annotator(client, folder / "b.png", 2)
    first.drawn = [stroke("like this", 125, 40, 140, 45)]
    first.ask(typed("like this"))
    assert [shape_of(region) for region in second.ask(typed("like this"))] == ["blue mirrored"]


def test_what_was_submitted_on_one_image_is_found_on_another_under_its_label(
    client: TestClient, parts: Parts, folder: Path
) -> None:
    first, second = Annotator(client, folder / "a.png", 1), Annotator(client, folder / "b.png", 2)
    first.drawn = first.ask(click(130, 40, "Box"))
    first.submit()
    parts.webhooks.wait()
    regions = second.ask(typed("like Box"))
    assert found(regions) == [("Box", "blue mirrored")]
    assert regions[0]["meta"]["text"] == ["like Box"]


def test_what_is_no_longer_drawn_on_an_image_is_no_example_there(ann: Annotator, parts: Parts) -> None:
    ann.drawn = ann.ask(click(130, 40, "Box"))
    ann.submit()
    parts.webhooks.wait()
    ann.drawn = []
    (message,) = ann.ask(typed("like Box"))
    assert "no region with the label 'Box'" in message["value"]["text"][0]


def test_an_example_whose_image_has_another_size_now_is_left_out(client: TestClient, parts: Parts, folder: Path) -> None:
    first, second = Annotator(client, folder / "a.png", 1), Annotator(client, folder / "b.png", 2)
    first.drawn = first.ask(click(130, 40, "Box"))
    first.submit()
    parts.webhooks.wait()
    Image.fromarray(picture().image[10:]).save(folder / "a.png")
    (message,) = second.ask(typed("like Box"))
    assert "no region with the label 'Box'" in message["value"]["text"][0]


def test_what_a_negative_wish_shows_is_not_found(client: TestClient, parts: Parts, folder: Path) -> None:
    first, second = Annotator(client, folder / "a.png", 1), Annotator(client, folder / "b.png", 2)
    first.drawn = first.ask(click(35, 45))
    first.submit()
    parts.webhooks.wait()
    second.drawn = [stroke("like this", 20, 40, 30, 45)]
    assert sorted(map(shape_of, second.ask(typed("like ball")))) == ["left mirrored", "right mirrored"]
    regions = second.ask(typed("like ball, not like this"))
    assert sorted(map(shape_of, regions)) == ["left mirrored", "right mirrored"]
    assert regions[0]["meta"]["text"] == ["1 reference, like ball, not like this"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("like this", "nothing shows what"),
        ("like Box", "no region with the label 'Box' has been accepted"),
        ("like giraffe", "there is no label 'giraffe'"),
    ],
)
def test_a_wish_that_cannot_be_fulfilled_is_answered_in_words(ann: Annotator, line: str, message: str) -> None:
    (answer,) = ann.ask(typed(line))
    assert answer["type"] == "textarea"
    assert message in answer["value"]["text"][0]


def test_references_of_two_tasks_are_apart_however_long_the_names_are(client: TestClient, folder: Path) -> None:
    config = CONFIG.replace('"image"', f'"{"image" * 20}"')
    first, second, third = (Annotator(client, folder / name, number) for number, name in enumerate(("a.png", "b.png", "c.png")))
    Image.fromarray(np.ascontiguousarray(picture().image[::-1])).save(folder / "c.png")
    for ann, drawn in ((first, stroke("like this", 125, 40, 140, 45)), (second, stroke("like this", 120, 45, 130, 45))):
        ann.drawn = [{**drawn, "to_name": "image" * 20}]
        ann.ask({**typed("like this"), "to_name": "image" * 20}, config=config)
    assert len(third.ask({**typed("like this"), "to_name": "image" * 20}, config=config)) == 3, "what both show is found"


def test_events_are_answered_at_once_and_rubbish_harms_nothing(client: TestClient, parts: Parts) -> None:
    for body in (b"", b"{", b"[]", b"\xff", json.dumps({"action": "ANNOTATION_CREATED", "project": {}}).encode()):
        assert client.post("/webhook", content=body).status_code == 201
    parts.webhooks.wait()
