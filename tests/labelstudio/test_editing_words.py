"""Words that edit masks, typed into the real page: the suggestion is changed step by step, and a drawn region in its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.labelstudio.api import LabelStudio, Project
from backend.values.morphology import grow, shrink
from tests.labelstudio.annotator import Annotator, mask_of
from tests.labelstudio.oracle import iou
from tests.labelstudio.pictures import upload_files
from tests.labelstudio.table import POINT, assert_stored, made, shape

pytestmark = [pytest.mark.studio, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def project(label_studio: LabelStudio, colour_backend: str) -> Project:
    return made(label_studio, colour_backend, "mixed")


def test_five_words_change_what_is_shown_and_then_what_was_accepted(
    label_studio: LabelStudio, project: Project, images: list[Path], ann: Annotator
) -> None:
    (task,) = upload_files(label_studio, project.id, images[:1])
    ann.open(project.id, task)
    ann.choose(".clicks", "cup", POINT)
    ann.point(80, 90)
    both = ann.say("more")
    assert sorted(int(mask_of(each).sum()) for each in both) == sorted(int(shape(n).sum()) for n in ("large", "small"))
    (joined,) = ann.say("join")
    assert iou(mask_of(joined), shape("large") | shape("small")) == 1
    (largest,) = ann.say("largest part")
    assert iou(mask_of(largest), shape("large")) == 1
    (grown,) = ann.say("grow 4")
    assert iou(mask_of(grown), grow(shape("large"), 4)) == 1
    (undone,) = ann.say("undo")
    assert iou(mask_of(undone), shape("large")) == 1
    ann.until_saved(ann.accept)

    (shrunk,) = ann.say("shrink 6")
    (before,) = [each for each in ann.on_page() if each["type"] == "brushlabels"]
    assert shrunk["id"] == before["id"]
    ann.accept()
    regions = [each for each in ann.on_page() if each["type"] == "brushlabels"]
    assert [each["id"] for each in regions] == [before["id"]], "the accepted suggestion takes the place of its region"
    ann.submit()
    assert_stored(label_studio, task, ("cup", shrink(shape("large"), 6)), least=0.99)


def test_a_phrase_that_finds_nothing_says_so_on_the_page(
    label_studio: LabelStudio, project: Project, images: list[Path], ann: Annotator
) -> None:
    (task,) = upload_files(label_studio, project.id, images[:1])
    ann.open(project.id, task)
    (message,) = ann.say("yellow")
    assert "nothing found for" in message["value"]["text"][0]
    ann.page.wait_for_function("() => document.body.innerText.includes('nothing found for')")
