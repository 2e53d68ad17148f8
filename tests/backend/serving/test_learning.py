"""What a team accepts changes the next pre-annotation, over HTTP; what it takes back is as if it had never been."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from backend.assemble import Parts
from backend.serving.learnt import MOST_IMAGES, ExampleImage, Learnt
from prompts.examples import ShownImage
from prompts.geometry import Size
from prompts.memory import Usual
from prompts.phrases import Vocabulary
from tests.backend.annotator import CONFIG, Annotator, click, found, typed


def preannotated(client: TestClient, image: Path, number: int) -> list[dict[str, Any]]:
    """The regions that Label Studio is given when it asks about a task."""
    task = {"id": number, "data": {"image": str(image)}}
    body = {"tasks": [task], "project": "1.17", "label_config": CONFIG}
    (answer,) = client.post("/predict", json=body).json()["results"]
    return list(answer["result"])


def deleted(client: TestClient, *annotations: int) -> None:
    event = {"action": "ANNOTATIONS_DELETED", "project": {"id": 1}, "annotations": [{"id": each} for each in annotations]}
    assert client.post("/webhook", json=event).status_code == 201


def test_what_was_accepted_is_found_on_the_next_task_under_its_label(client: TestClient, parts: Parts, folder: Path) -> None:
    before = preannotated(client, folder / "b.png", 2)
    assert before == [], "neither word is a colour"
    first = Annotator(client, folder / "a.png", 1)
    first.drawn = [first.ask(click(*at, label=label))[0] for at, label in (((35, 45), "Ball"), ((130, 40), "Box"))]
    first.submit()
    parts.webhooks.wait()
    assert found(preannotated(client, folder / "b.png", 2)) == [
        ("Ball", "left mirrored"),
        ("Ball", "right mirrored"),
        ("Box", "blue mirrored"),
    ], "both red discs, though one alone was accepted, and the blue square; not the green one"
    deleted(client, 10)
    parts.webhooks.wait()
    assert preannotated(client, folder / "b.png", 2) == before


def test_nobody_learns_from_the_task_that_is_asked_about(client: TestClient, parts: Parts, folder: Path) -> None:
    first = Annotator(client, folder / "a.png", 1)
    first.drawn = first.ask(click(35, 45))
    first.submit()
    parts.webhooks.wait()
    assert preannotated(client, folder / "a.png", 1) == []


def test_an_image_that_is_gone_costs_what_it_taught_and_no_answer(client: TestClient, parts: Parts, folder: Path) -> None:
    first = Annotator(client, folder / "a.png", 1)
    first.drawn = first.ask(click(35, 45))
    (folder / "a.png").unlink()
    first.submit()
    parts.webhooks.wait()
    assert preannotated(client, folder / "b.png", 2) == []


def test_what_was_accepted_is_learnt_before_anybody_asks(client: TestClient, parts: Parts, folder: Path) -> None:
    first = Annotator(client, folder / "a.png", 1)
    first.drawn = first.ask(click(35, 45))
    first.submit()
    parts.webhooks.wait()
    parts.learning.wait()
    (folder / "a.png").unlink()
    assert [label for label, _ in found(preannotated(client, folder / "b.png", 2))] == ["Ball", "Ball"]


def test_what_examples_showed_is_kept_for_the_next_process(folder: Path, client: TestClient, parts: Parts) -> None:
    first = Annotator(client, folder / "a.png", 1)
    first.drawn = first.ask(click(35, 45))
    first.submit()
    parts.webhooks.wait()
    there = preannotated(client, folder / "b.png", 2)
    assert len(there) == 2
    assert list((folder / "home" / "examples").glob("*.places"))


def test_each_label_is_learnt_from_a_bounded_number_of_images_whatever_else_they_show() -> None:
    """Fourteen images show both labels: the eight that differ most in balls are not the eight that differ most in boxes."""
    dice = torch.Generator().manual_seed(0)
    places = torch.nn.functional.normalize(torch.randn(14, 3, 20, 16, generator=dice) + 2, dim=3).half()
    shown = [ShownImage({"ball": ball, "box": box}, grey, counts={"ball": 1, "box": 1}) for ball, box, grey in places]
    images = [ExampleImage("1", str(k), f"{k}.png", Size(8, 8), (), (), str(k)) for k in range(len(shown))]
    memories = Learnt(Vocabulary.from_names(["ball", "box"]).entries, tuple(zip(images, shown, strict=True))).besides("")
    assert [each.images for each in memories] == [MOST_IMAGES, MOST_IMAGES]
    assert [each.usual for each in memories] == [Usual(1, 2)] * 2


def test_the_bare_label_typed_finds_what_was_accepted_under_it(client: TestClient, parts: Parts, folder: Path) -> None:
    first, second = Annotator(client, folder / "a.png", 1), Annotator(client, folder / "b.png", 2)
    first.drawn = first.ask(click(130, 40, "Box"))
    first.submit()
    parts.webhooks.wait()
    assert found(second.ask(typed("box"))) == [("Box", "blue mirrored")]


def test_everything_that_is_found_is_named_by_what_was_accepted(client: TestClient, parts: Parts, folder: Path) -> None:
    """The colour engine finds nothing unasked, so a click without a selected label stands for it."""
    first, second = Annotator(client, folder / "a.png", 1), Annotator(client, folder / "b.png", 2)
    first.drawn = first.ask(click(130, 40, "Box"))
    first.submit()
    parts.webhooks.wait()
    bare = click(30, 40)
    bare["value"].pop("keypointlabels")
    assert found(second.ask(bare)) == [("Box", "blue mirrored")]


@pytest.mark.slow
def test_images_that_are_kept_in_their_addresses_are_held_a_bounded_number_of_times(
    client: TestClient, parts: Parts, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each submission made all images of its label anew, with their addresses, and all of them were held."""
    url = "data:image/png;base64," + base64.b64encode((folder / "a.png").read_bytes()).decode()
    most = 4 * len(url)
    monkeypatch.setattr("backend.serving.learning.MOST_LISTED_BYTES", most)
    for number in range(1, 13):
        ann = Annotator(client, url, number)
        ann.drawn = ann.ask(click(35, 45))
        ann.submit()
        parts.webhooks.wait()
        assert preannotated(client, folder / "b.png", 100 + number)
    listed = [each for examples in parts.learning._lists.values() for each in (*examples.accepted, *examples.rejected)]
    assert sum(len(each.image_url) for each in listed) <= most
    kept = [each.result for each in parts.learning._complete._kept.values()]
    assert any(image.url == url for learnt in kept for image, _ in learnt.images)
    assert all(each.nbytes > sum(len(image.url) + shown.nbytes for image, shown in each.images) for each in kept if each.images)


def test_what_an_image_shows_is_held_while_answers_want_it_and_on_disk_for_longer(
    client: TestClient, parts: Parts, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, (x, label) in enumerate([(35, "Ball"), (130, "Box")], 1):
        (folder / f"{number}.png").write_bytes((folder / "a.png").read_bytes())
        ann = Annotator(client, folder / f"{number}.png", number)
        ann.drawn = ann.ask(click(x, 40, label))
        ann.submit()
        parts.webhooks.wait()
    learning = parts.learning
    there = found(preannotated(client, folder / "b.png", 3))
    assert {label for label, _ in there} == {"Ball", "Box"}
    assert len(learning._known) >= 2
    assert learning._known_bytes == sum(shown.nbytes for _, shown in learning._known.values())
    monkeypatch.setattr("backend.serving.learning.WANTED_S", 0.0)
    assert found(preannotated(client, folder / "b.png", 4)) == there
    assert len(learning._known) == 1
    assert learning._known_bytes == sum(shown.nbytes for _, shown in learning._known.values())
