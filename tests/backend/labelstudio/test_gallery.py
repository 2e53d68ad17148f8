"""Every labelling config of the gallery does what its first line says, over the colour engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from backend.app import create_app
from backend.assemble import assemble
from backend.labelstudio.config import read_config
from backend.labelstudio.shapes import covers_pixels, mask_of
from backend.values.settings import Settings
from prompts.geometry import Size
from tests.backend.pictures import BLUE, RED, disc, paint, square

pytestmark = pytest.mark.slow

FOLDER = Path("docs/how-to/configs")
NAMES = sorted(file.stem for file in FOLDER.glob("*.xml"))
SIZE = Size(90, 160)
SHAPES = {
    "large": (disc(90, 160, 35, 45, 25), RED),
    "small": (disc(90, 160, 95, 40, 12), RED),
    "blue": (square(90, 160, 120, 30, 25), BLUE),
}
COLOURS = {"cup": "red", "nucleus": "red", "car": "red", "plate": "blue", "mitosis": "green", "road": "blue"}


@pytest.fixture
def image(tmp_path: Path) -> str:
    Image.fromarray(paint(SHAPES).image).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(create_app(assemble(Settings(engine="colour", home=tmp_path / "home", local_roots=str(tmp_path))))) as made:
        yield made


def in_colours(name: str) -> str:
    """A config of the gallery whose labels are found by colours."""
    root = ElementTree.fromstring((FOLDER / f"{name}.xml").read_text("utf-8"))
    for tag, attribute in (("Label", "predicted_values"), ("Choice", "hint")):
        for label in root.iter(tag):
            if label.get("value") in COLOURS:
                label.set(attribute, COLOURS[label.attrib["value"]])
    return ElementTree.tostring(root, encoding="unicode")


def item(control: str, kind: str, value: dict[str, Any], label: str, **more: Any) -> dict[str, Any]:
    head = {"id": control, "type": kind, "from_name": control, "to_name": "image", "origin": "manual"}
    return {**head, "value": {**value, (kind if kind.endswith("labels") else "labels"): [label]}, **more}


def click(x: float, y: float, label: str, kind: str = "keypointlabels", **more: Any) -> dict[str, Any]:
    value = {"x": x * 100 / SIZE.width, "y": y * 100 / SIZE.height, "width": 0.2}
    return item("point", kind, value, label, is_positive=True, **more)


def rectangle(control: str, label: str) -> dict[str, Any]:
    """A box inside the large disc."""
    value = {"x": 15, "y": 40, "width": 12, "height": 20, "rotation": 0}
    return item(control, "rectanglelabels", value, label)


def typed(line: str) -> dict[str, Any]:
    return {"id": "t", "type": "textarea", "from_name": "prompt", "to_name": "image", "value": {"text": [line]}}


def outlined(label: str) -> dict[str, Any]:
    """A polygon around the middle of the blue square."""
    points = [[x * 100 / SIZE.width, y * 100 / SIZE.height] for x, y in ((125, 35), (140, 35), (140, 50), (125, 50))]
    return item("example", "polygonlabels", {"points": points, "closed": True}, label)


DATA = {"pages": {"images": ["IMAGE", "IMAGE"]}}
EXTRA = {"panoptic": {"mode": "panoptic", "stuff": ["sky", "road"]}}
FLOWS: list[tuple[str, dict[str, Any] | None, list[dict[str, Any]], list[tuple[str, str]]]] = [
    ("text", None, [], [("cup", "large"), ("cup", "small"), ("plate", "blue")]),
    ("text", typed("blue"), [], [("plate", "blue")]),
    ("clicks", click(35, 45, "cup"), [], [("cup", "large")]),
    ("clicks", rectangle("box", "plate"), [], [("plate", "box")]),
    ("mixed", typed("red, not blue"), [], [("cup", "large"), ("cup", "small")]),
    ("mixed", rectangle("box", "like this"), [], [("cup", "large"), ("cup", "small")]),
    ("polygons", rectangle("box", "plate"), [], [("plate", "box")]),
    ("polygons", typed("blue"), [], [("plate", "blue")]),
    ("panoptic", None, [], [("car", "large"), ("car", "small"), ("road", "blue")]),
    ("pages", click(130, 40, "plate", item_index=1), [], [("plate", "blue")]),
    ("pages", None, [], [("cup", "large"), ("cup", "small"), ("plate", "blue")] * 2),
    ("labels", click(35, 45, "cup", "keypoint"), [], [("cup", "large")]),
    ("nuclei", rectangle("example", "nucleus"), [], [("nucleus", "large"), ("nucleus", "small")]),
    ("names", None, [], [("Tableware / cup", "large"), ("Tableware / cup", "small"), ("Tableware / plate", "blue")]),
    ("names", typed("blue"), [], [("Tableware / plate", "blue")]),
    ("names", click(35, 45, "thing"), [], [("Tableware / cup", "large")]),
    ("references", typed("like this"), [outlined("like this")], [("part", "blue")]),
]


@pytest.mark.parametrize(("name", "prompt", "drawn", "expected"), FLOWS)
def test_a_config_of_the_gallery_does_what_it_says(
    client: TestClient,
    image: str,
    name: str,
    prompt: dict[str, Any] | None,
    drawn: list[dict[str, Any]],
    expected: list[tuple[str, str]],
) -> None:
    config = in_colours(name)
    data = {key: [image] * len(pages) for key, pages in DATA.get(name, {}).items()} or {"image": image}
    drafts = [{"user": "ann@example.com", "updated_at": "2026-11-20T22:35:42Z", "result": drawn}]
    context = {"result": [prompt]} if prompt else None
    assert client.post("/setup", json={"project": "1.17", "extra_params": EXTRA.get(name)}).status_code == 200
    task = {"id": 1, "data": data, "drafts": drafts, "annotations": [], "predictions": []}
    body = {"tasks": [task], "project": "1.17", "label_config": config, "params": {"context": context}}
    (answer,) = client.post("/predict", json=body).json()["results"]
    labels = {region["id"]: region["value"]["labels"][0] for region in answer["result"] if region["type"] == "labels"}
    labels |= {r["id"]: " / ".join(r["value"]["taxonomy"][0]) for r in answer["result"] if r["type"] == "taxonomy"}
    shapes = [region for region in answer["result"] if covers_pixels(region)]
    found = [(labels.get(r["id"]) or r["value"][r["type"]][0], shape_of(r)) for r in shapes]
    assert sorted(found) == sorted(expected)


def shape_of(region: dict[str, Any]) -> str:
    """The shape that a region shows, within what its form loses."""
    mask = mask_of(region, SIZE)
    known = {name: shape for name, (shape, _) in SHAPES.items()}
    known["box"] = known["large"] & mask_of(rectangle("box", "cup"), SIZE)
    overlap = {name: (mask & shape).sum() / (mask | shape).sum() for name, shape in known.items()}
    best = max(overlap, key=lambda name: overlap[name])
    return best if overlap[best] > 0.9 else f"{mask.sum()} pixels, {overlap[best]:.2f} {best}"


def test_every_config_of_the_gallery_is_run_and_says_what_it_is_for() -> None:
    assert {name for name, *_ in FLOWS} == set(NAMES)
    for name in NAMES:
        text = (FOLDER / f"{name}.xml").read_text("utf-8")
        assert text.startswith("<!-- ")
        assert read_config(text).vocabulary.labels
        assert not np.any([label.startswith("like") for label in read_config(text).vocabulary.labels])
