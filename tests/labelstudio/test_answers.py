"""What the page does with names, alternatives and turned images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.labelstudio.api import LabelStudio, Project
from tests.labelstudio.annotator import Annotator, mask_of
from tests.labelstudio.editor import IMAGE
from tests.labelstudio.oracle import iou
from tests.labelstudio.pictures import upload_files
from tests.labelstudio.table import CONFIGS, POINT, assert_stored, shape

pytestmark = [pytest.mark.studio, pytest.mark.timeout(1200)]

ALIASES = {'"cup" hint="mug"': '"red ball" alias="ball"', '"plate"': '"blue"'}


def made(label_studio: LabelStudio, backend: str, config: str, extra_params: Mapping[str, Any] | None = None) -> Project:
    """A project with a config and extra parameters."""
    found = label_studio.create_project("live answers", config)
    payload = {"url": backend, "project": found.id, "title": "Maskloom", "is_interactive": True, "extra_params": extra_params}
    assert label_studio.call("POST", "/api/ml", json=payload)["state"] == "CO"
    return found


def test_a_region_s_path_in_a_taxonomy_and_its_choices_are_stored_with_it(
    label_studio: LabelStudio, colour_backend: str, ann: Annotator, images: list[Path]
) -> None:
    config = (CONFIGS / "names.xml").read_text("utf-8")
    for old, new in ALIASES.items():
        config = config.replace(f"<Choice value={old}/>", f"<Choice value={new}/>")
    project = made(label_studio, colour_backend, config)
    (task,) = upload_files(label_studio, project.id, images[:1])
    ann.open(project.id, task)
    assert len([region for region in ann.on_page() if region["type"] == "brushlabels"]) == 3, (
        "the pre-annotation looks for the leaves of the taxonomy"
    )
    ann.submit()
    (annotation,) = label_studio.task(task).annotations
    by_id: dict[str, dict[str, Any]] = {}
    for item in annotation["result"]:
        by_id.setdefault(item["id"], {})[item["type"]] = item
    stored = [(parts["taxonomy"]["value"]["taxonomy"], parts["brushlabels"]) for parts in by_id.values()]
    (blue,) = [mask_of(region) for path, region in stored if path == [["Tableware", "blue"]]]
    assert iou(blue, shape("blue")) > 0.99
    assert sorted(path for path, _ in stored) == [[["Tableware", "ball"]]] * 2 + [[["Tableware", "blue"]]]
    assert all(len(parts["choices"]["value"]["choices"]) == 2 for parts in by_id.values())


def test_one_of_several_alternatives_is_accepted_and_the_rest_rejected(
    label_studio: LabelStudio, colour_backend: str, ann: Annotator, images: list[Path]
) -> None:
    project = made(label_studio, colour_backend, (CONFIGS / "mixed.xml").read_text("utf-8"), {"alternatives": 2})
    (task,) = upload_files(label_studio, project.id, images[:1])
    ann.open(project.id, task)
    ann.choose(".clicks", "cup", POINT)
    offered = ann.point(190, 180)
    assert sorted(int(mask_of(each).sum()) for each in offered) == sorted(
        int(mask.sum()) for mask in (shape("small"), shape("large") | shape("small"))
    )
    ann.accept_one([bool(mask_of(each)[90, 80]) for each in offered].index(True))
    ann.reject()
    ann.submit()
    assert_stored(label_studio, task, ("cup", shape("large") | shape("small")))


def test_a_click_on_a_turned_image_is_about_the_image_as_it_is(
    label_studio: LabelStudio, colour_backend: str, ann: Annotator, images: list[Path]
) -> None:
    config = (CONFIGS / "mixed.xml").read_text("utf-8").replace('zoom="true"', 'zoom="true" rotateControl="true"')
    project = made(label_studio, colour_backend, config)
    (task,) = upload_files(label_studio, project.id, images[:1])
    ann.open(project.id, task)
    ann.page.evaluate(f"() => {IMAGE}.rotate(-90)")
    ann.page.wait_for_timeout(800)
    ann.choose(".clicks", "cup", POINT)
    (suggested,) = ann._suggested(lambda: ann.page.mouse.click(*turned_left(ann, 240, 70)))
    assert np.array_equal(mask_of(suggested).shape, (240, 320))
    ann.accept()
    assert {region["image_rotation"] for region in ann.on_page()} == {270}
    ann.submit()
    assert_stored(label_studio, task, ("cup", shape("blue")))


def turned_left(ann: Annotator, x: float, y: float) -> tuple[float, float]:
    """Where a pixel of the image, 320 pixels wide, lies in the page when the image is turned left and fills the width."""
    frame = ann.page.locator(".konvajs-content").first.bounding_box()
    assert frame is not None
    scale = frame["width"] / 240
    return frame["x"] + y * scale, frame["y"] + (320 - x) * scale
