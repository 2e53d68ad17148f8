"""The mode that finds everything, through /predict: a grid of clicks over a network that sees colours, named by the labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from backend.app import create_app
from backend.assemble import assemble
from backend.engines.base import Engine
from backend.engines.catalogue import Placement, Recipe
from backend.labelstudio.shapes import painted as rle
from backend.values.settings import Settings
from prompts.geometry import Size
from tests.backend.engines.colour_network import ColourNetwork
from tests.backend.engines.sam.test_engine import iou, segmenter_around
from tests.backend.pictures import Picture, two_shapes

CONFIG = """<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">
    <Label value="Ball" predicted_values="red"/><Label value="Box" predicted_values="blue"/>
    <Label value="Leaf" predicted_values="green"/></BrushLabels></View>"""


def build(_weights: Path | None, _placement: Placement) -> Engine:
    return segmenter_around(ColourNetwork()).engine


def pre_annotated(folder: Path, picture: Picture, extra_params: dict[str, Any]) -> list[tuple[str, np.ndarray]]:
    """The labels and masks that a project with these extra parameters gets."""
    Image.fromarray(picture.image).save(folder / "a.png")
    parts = assemble(Settings(engine="colour", home=folder / "home", local_roots=str(folder)))
    parts.engine.switch(Recipe("colours", f"{__name__}:build", "a network that sees colours", "Apache-2.0"))
    task = {"id": 1, "data": {"image": str(folder / "a.png")}}
    body = {"tasks": [task], "project": "1.17", "label_config": CONFIG}
    with TestClient(create_app(parts)) as client:
        assert client.post("/setup", json={"project": "1.17", "extra_params": extra_params}).status_code == 200
        (answer,) = client.post("/predict", json=body).json()["results"]
    size = Size(*picture.image.shape[:2])
    return [(item["value"]["brushlabels"][0], rle.decode(item["value"]["rle"], size)) for item in answer["result"]]


def test_everything_is_found_once_and_named_by_the_labels(tmp_path: Path) -> None:
    picture = two_shapes()
    found = pre_annotated(tmp_path, picture, {"mode": "everything"})
    ground = ~(picture.shapes["red disc"] | picture.shapes["blue square"])
    assert len(found) == 3
    assert max(iou(mask, ground) for _, mask in found) > 0.85
    for label, name in (("Ball", "red disc"), ("Box", "blue square")):
        assert max(iou(mask, picture.shapes[name]) for its, mask in found if its == label) > 0.85, label


@pytest.mark.parametrize(("extra", "labels"), [({"max_regions": 1}, 1), ({"min_area": 1000}, 2), ({"threshold": 0.99}, 0)])
def test_the_bounds_of_the_extra_parameters_hold_for_everything_too(tmp_path: Path, extra: dict[str, Any], labels: int) -> None:
    assert len(pre_annotated(tmp_path, two_shapes(), {"mode": "everything", **extra})) == labels
