"""The default engine on photos at the real page: what is stored is what was sent, and roughly the thing that was meant."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.demo.filling import find_examples
from backend.labelstudio.api import LabelStudio, Project
from prompts.geometry import Size, polygon_mask
from tests.labelstudio.annotator import Annotator, mask_of
from tests.labelstudio.oracle import iou
from tests.labelstudio.pictures import upload_files
from tests.labelstudio.table import BOX, CONFIGS, POINT, POLYGON, made, stored

pytestmark = [pytest.mark.studio, pytest.mark.timeout(1200)]

CUP = [(174, 100), (182, 60), (215, 35), (280, 18), (345, 25), (390, 55), (408, 95), (405, 135), (385, 190), (370, 230)]
CUP += [(330, 262), (280, 285), (240, 280), (225, 305), (200, 300), (200, 250), (215, 230), (185, 185)]
"""The cup of scikit-image's photo of a coffee, 600 x 400, with its handle, outlined by hand."""
FACE = (225, 120)
"""Between the eyes of scikit-image's cat, 451 x 300."""
NOSE = (222, 115)
"""The nose of scikit-image's astronaut, 512 x 512."""


@pytest.fixture(scope="module")
def cups(label_studio: LabelStudio, default_backend: str) -> Project:
    return made(label_studio, default_backend, "mixed")


@pytest.fixture(scope="module")
def cats(label_studio: LabelStudio, default_backend: str) -> Project:
    return project_of(label_studio, default_backend, "cat")


@pytest.fixture(scope="module")
def people(label_studio: LabelStudio, default_backend: str) -> Project:
    return project_of(label_studio, default_backend, "person")


def project_of(label_studio: LabelStudio, backend: str, label: str) -> Project:
    """A project with clicks, a text box and two labels, this one the first."""
    config = (CONFIGS / "mixed.xml").read_text("utf-8").replace('value="cup"', f'value="{label}"')
    found = label_studio.create_project(f"live {label}", config)
    assert label_studio.attach_backend(found.id, backend, "Maskloom").state == "CO"
    return found


def accepted(label_studio: LabelStudio, ann: Annotator, task: int, label: str) -> list[NDArray[np.bool_]]:
    """Accept what is suggested, submit, and the masks that are stored with a label."""
    ann.accept()
    ann.submit()
    return [mask for its, mask in stored(label_studio, task) if its == label]


def test_a_click_on_the_cat_s_face_stores_the_mask_that_was_sent_with_the_clicked_pixel(
    label_studio: LabelStudio, ann: Annotator, cats: Project
) -> None:
    (task,) = upload_files(label_studio, cats.id, find_examples(("chelsea.png",)))
    ann.open(cats.id, task)
    ann.choose(".clicks", "cat", POINT)
    (suggested,) = ann.point(*FACE, hold="Control")  # which reaches through the regions of the pre-annotation
    masks = accepted(label_studio, ann, task, "cat")
    mask = max(masks, key=lambda each: iou(each, mask_of(suggested)))
    assert iou(mask, mask_of(suggested)) > 0.99
    assert mask.shape == (300, 451)
    assert mask[FACE[::-1]]
    assert 0.01 < mask.mean() < 0.9


def test_a_phrase_stores_the_masks_that_were_sent_with_the_astronaut_s_face(
    label_studio: LabelStudio, ann: Annotator, people: Project
) -> None:
    (task,) = upload_files(label_studio, people.id, find_examples(("astronaut.png",)))
    ann.open(people.id, task)
    suggested = ann.say("person")
    masks = accepted(label_studio, ann, task, "person")
    sent = np.any([mask_of(each) for each in suggested], axis=0)
    assert all(max(iou(mask_of(each), mask) for mask in masks) > 0.99 for each in suggested)
    assert sent[NOSE[::-1]]
    assert 0.02 < sent.mean() < 0.95


@pytest.mark.parametrize("prompt", ["box", "outline"])
def test_a_box_and_an_outline_around_the_cup_store_it(
    label_studio: LabelStudio, ann: Annotator, cups: Project, prompt: str
) -> None:
    (task,) = upload_files(label_studio, cups.id, find_examples(("coffee.png",)))
    ann.open(cups.id, task)
    if prompt == "outline":
        ann.choose(".outlines", "cup", POLYGON)
        ann.outline([(170, 90), (230, 20), (340, 15), (415, 90), (395, 200), (330, 275), (200, 310)])
        ann.until_saved()
        (suggested,) = ann.say("this")
    else:
        ann.choose(".boxes", "cup", BOX)
        (suggested,) = ann.box(150, 8, 420, 312)
    masks = accepted(label_studio, ann, task, "cup")
    sent = mask_of(suggested)
    assert max(iou(mask, sent) for mask in masks) > 0.99
    assert iou(sent, polygon_mask(np.array(CUP, np.float64), Size(400, 600))) > 0.6
    rows, columns = np.nonzero(sent)
    assert columns.min() > 130
    assert columns.max() < 440
    assert rows.max() < 335
