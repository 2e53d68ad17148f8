"""An annotator's work over HTTP and the colour engine: what is drawn by hand prompts, and what was accepted is found again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from backend.app import create_app
from backend.assemble import Parts, assemble
from backend.labelstudio import rle
from backend.settings import Settings
from backend.stores.sessions import SessionStore
from prompts.geometry import Size
from tests.backend.pictures import BLUE, GREEN, RED, Picture, disc, paint, square

CONFIG = """<View>
  <TextArea name="prompt" toName="image"/>
  <Image name="image" value="$image"/>
  <BrushLabels name="brush" toName="image"><Label value="Ball"/><Label value="Box"/></BrushLabels>
  <BrushLabels name="hint" toName="image"><Label value="this" maskloom="for"/><Label value="not this" maskloom="against"/>
    <Label value="like this" maskloom="reference"/><Label value="better" maskloom="refine"/></BrushLabels>
  <KeyPointLabels name="kp" toName="image" smart="true"><Label value="Ball"/><Label value="Box"/></KeyPointLabels>
  <RectangleLabels name="rect" toName="image" smart="true" smartOnly="true"><Label value="Ball"/><Label value="Box"/>
    <Label value="like this" maskloom="reference"/></RectangleLabels>
</View>"""
HEIGHT, WIDTH = 90, 160
SHAPES = {
    "left": (disc(HEIGHT, WIDTH, 35, 45, 25), RED),
    "right": (disc(HEIGHT, WIDTH, 95, 40, 12), RED),
    "blue": (square(HEIGHT, WIDTH, 120, 30, 25), BLUE),
    "green": (square(HEIGHT, WIDTH, 75, 65, 20), GREEN),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.fromarray(picture().image).save(tmp_path / "a.png")
    Image.fromarray(np.ascontiguousarray(picture().image[:, ::-1])).save(tmp_path / "b.png")
    return tmp_path


@pytest.fixture
def parts(folder: Path) -> Parts:
    return assemble(Settings(engine="colour", home=folder / "home", local_roots=str(folder)))


@pytest.fixture
def client(parts: Parts) -> Iterator[TestClient]:
    with TestClient(create_app(parts)) as client:
        yield client


def picture() -> Picture:
    return paint(SHAPES)


class Annotator:
    """One annotator at one task, as the page speaks for them."""

    def __init__(self, client: TestClient, image: Path, number: int = 1) -> None:
        self.client, self.image, self.number = client, str(image), number
        self.drawn: list[dict[str, Any]] = []

    def ask(self, *context: dict[str, Any], age: float = 60, config: str = CONFIG) -> list[dict[str, Any]]:
        """The regions answered to a context, while the draft of so many seconds ago holds everything drawn by hand."""
        at = datetime.fromtimestamp(time.time() - age, UTC).isoformat()
        drafts = [{"user": "ann@example.com", "updated_at": at, "result": self.drawn}]
        task = {"id": self.number, "data": {"image": self.image}, "annotations": [], "predictions": [], "drafts": drafts}
        body = {"tasks": [task], "project": "1.17", "label_config": config, "params": {"context": {"result": list(context)}}}
        (answer,) = self.client.post("/predict", json=body).json()["results"]
        return list(answer["result"])

    def submit(self) -> None:
        """Submit the annotation, of which Label Studio tells us."""
        annotation = {"id": self.number * 10, "task": self.number, "result": self.drawn}
        task = {"id": self.number, "data": {"image": self.image}}
        project = {"id": 1, "label_config": CONFIG}
        event = {"action": "ANNOTATION_CREATED", "annotation": annotation, "project": project, "task": task}
        assert self.client.post("/webhook", json=event).status_code == 201


def head(kind: str, control: str, name: str) -> dict[str, Any]:
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {"id": name, "type": kind, "from_name": control, "to_name": "image", "origin": "manual", **size}


def stroke(label: str, *path: float) -> dict[str, Any]:
    """A brush stroke along pixels, 3 pixels wide."""
    percents = [value * 100 / side for value, side in zip(path, [WIDTH, HEIGHT] * len(path), strict=False)]
    touch = {"type": "add", "relativePoints": percents, "relativeStrokeWidth": 300 / WIDTH}
    value = {"format": "rle", "touches": [touch], "brushlabels": [label]}
    return {**head("brushlabels", "hint", f"stroke{path}"), "value": value}


def click(x: float, y: float, label: str = "Ball", positive: bool = True) -> dict[str, Any]:
    value = {"x": x * 100 / WIDTH, "y": y * 100 / HEIGHT, "width": 0.2, "keypointlabels": [label]}
    return {**head("keypointlabels", "kp", f"point{x},{y}"), "value": value, "is_positive": positive}


def box(x: float, y: float, width: float, height: float, label: str = "Ball") -> dict[str, Any]:
    value = {"x": x * 100 / WIDTH, "y": y * 100 / HEIGHT, "width": width * 100 / WIDTH, "height": height * 100 / HEIGHT}
    return {**head("rectanglelabels", "rect", f"box{x},{y}"), "value": {**value, "rotation": 0, "rectanglelabels": [label]}}


def typed(line: str) -> dict[str, Any]:
    return {"value": {"text": [line]}, "id": "t", "from_name": "prompt", "to_name": "image", "type": "textarea"}


def found(regions: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The labels of the answered regions and the shape that each shows to the pixel."""
    return sorted((region["value"]["brushlabels"][0], shape_of(region)) for region in regions)


def shape_of(region: dict[str, Any]) -> str:
    mask = rle.decode(region["value"]["rle"], Size(HEIGHT, WIDTH))
    shapes = {name: shape for name, (shape, _) in SHAPES.items()} | {
        f"{n} mirrored": s[:, ::-1] for n, (s, _) in SHAPES.items()
    }
    return next((name for name, shape in shapes.items() if np.array_equal(mask, shape)), f"{mask.sum()} pixels")


@pytest.fixture
def ann(client: TestClient, folder: Path) -> Annotator:
    return Annotator(client, folder / "a.png")


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


def test_a_smart_box_on_an_example_finds_everything_like_it_on_the_image(ann: Annotator) -> None:
    regions = ann.ask(box(20, 30, 20, 20, "like this"))
    assert sorted(shape_of(region) for region in regions) == ["left", "right"]
    assert regions[0]["meta"]["text"] == ["1 reference"]


def test_like_a_label_finds_what_is_still_missing_on_the_same_image(ann: Annotator) -> None:
    ann.drawn = [{**ann.ask(click(35, 45))[0], "origin": "manual"}]
    assert found(ann.ask(typed("like ball"))) == [("Ball", "right")]


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
    parts.learner.wait()
    regions = second.ask(typed("like Box"))
    assert found(regions) == [("Box", "blue mirrored")]
    assert regions[0]["meta"]["text"] == ["like Box"]


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


def test_an_answer_that_cannot_be_remembered_is_given_all_the_same(
    ann: Annotator, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("database or disk is full")

    monkeypatch.setattr(SessionStore, "note", fail)
    assert found(ann.ask(click(35, 45))) == [("Ball", "left")]


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
    parts.learner.wait()


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
