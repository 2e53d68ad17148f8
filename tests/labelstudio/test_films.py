"""Films in the page of a real Label Studio: tracks that are there at once, a corrected box, and what is stored of it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from backend.labelstudio.api import LabelStudio
from backend.video.film import open_film
from tests.backend.serving.test_films import CONFIG, COUNT, check_shown, picture, truth
from tests.backend.video.films import Recipe, numbered_film, write_film
from tests.labelstudio.annotator import Annotator
from tests.labelstudio.film_page import FilmPage
from tests.labelstudio.pictures import upload_files

pytestmark = [pytest.mark.studio, pytest.mark.timeout(1200)]


@pytest.fixture
def page(ann: Annotator) -> FilmPage:
    return FilmPage(ann.page, ann.studio)


def test_a_box_that_is_corrected_on_a_later_frame_is_followed_anew_and_stored_as_it_was_sent(
    page: FilmPage, label_studio: LabelStudio, colour_backend: str, tmp_path: Path
) -> None:
    film = write_film(tmp_path / "film.mp4", [picture(k, 4) for k in range(COUNT)], Recipe())
    project = label_studio.create_project("films", CONFIG)
    assert label_studio.attach_backend(project.id, colour_backend, "Maskloom").state == "CO"
    (task,) = upload_files(label_studio, project.id, [film])
    label_studio.retrieve_predictions(project.id, [task])
    (prediction,) = label_studio.task(task).predictions
    for region in prediction.result:
        check_shown(region["value"]["sequence"], region["value"]["labels"][0])

    page.open_film(project.id, task)
    page.auto_annotate()
    names = page.regions()
    assert sorted(names) == ["blue", "red"]
    before = page.sequence(names["red"])
    page.show(24)
    blue = truth("blue", 23)
    assert blue is not None
    page.drag_box(names["red"], blue)
    sent = page.relabel(names["red"], "blue")

    after = page.sequence(names["red"])
    assert after != before
    check_shown(after, "blue", range(23, COUNT))
    (answered,) = sent["result"]
    page.submit()
    (annotation,) = label_studio.task(task).annotations
    stored = {region["id"]: region["value"] for region in annotation["result"]}[answered["id"]]
    assert stored["sequence"] == answered["value"]["sequence"]
    assert stored["labels"] == ["blue"]


RECIPES = {
    "24 a second": (Recipe(), "24"),
    "23.976 a second": (Recipe(rate=Fraction(24000, 1001)), "23.976024"),
    "29.97 a second": (Recipe(rate=Fraction(30000, 1001)), "29.970030"),
    "29.97 a second in a config of 24": (Recipe(rate=Fraction(30000, 1001)), "24"),
    "B-frames": (Recipe(b_frames=2), "24"),
    "turned": (Recipe(rotation=90), "24"),
    "variable": (Recipe(base=Fraction(1, 240), ticks=[10 * k + (k // 3) * 4 for k in range(30)]), "24"),
}


SOON = ("23.976 a second", "29.97 a second in a config of 24", "variable")
"""Those that tell most; the others are looked at by the long tests."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in SOON else pytest.mark.long) for name in RECIPES])
def test_the_page_shows_the_frames_that_the_table_of_times_says(
    name: str, page: FilmPage, label_studio: LabelStudio, tmp_path: Path
) -> None:
    recipe, rate = RECIPES[name]
    path = numbered_film(tmp_path / "film.mp4", 30, recipe)
    project = label_studio.create_project("frames", CONFIG.replace('frameRate="24"', f'frameRate="{rate}"'))
    (task,) = upload_files(label_studio, project.id, [path])
    timeline = open_film(path).timeline

    page.open_film(project.id, task)

    length = page.length()
    assert length == timeline.studio_length(Fraction(rate))
    for number in (1, 2, 3, 9, 10, 17, length - 1, length):
        assert page.painted_number(number) == timeline.from_studio(number, Fraction(rate)), number
