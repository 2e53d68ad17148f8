"""What surrounds things: found to their edges, and sky, grass and trees told by their looks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from prompts.geometry import BoolArray
from tests.backend.pictures import disc
from train import scenery
from train.data import VOID, Photo, Row

BALL = disc(200, 260, 100, 130, 40)


def scene(upper: tuple[int, int, int], lower: tuple[int, int, int], rough: float = 0.0) -> Photo:
    """A red ball before two halves, the lower one of a rough colour; the upper left corner is void."""
    image = np.where(half(0)[:, :, None], upper, lower).astype(np.float64)
    image[half(1)] += np.random.default_rng(0).normal(0, rough, (int(half(1).sum()), 1))
    image[BALL] = (210, 40, 30)
    ids = BALL.astype(np.uint8)
    ids[:10, :10] = VOID
    row = Row(Path("0.jpg"), Path("m.png"), {1: "ball"}, "drawn", "train", "instance", None, frozenset())
    return Photo(row, image.clip(0, 255).astype(np.uint8), ids, ("cat",))


def half(which: int) -> BoolArray:
    upper: BoolArray = np.arange(200)[:, None] < np.full(260, 110)
    return ~upper if which else upper


BLUE, GREEN, GREY = (90, 140, 230), (70, 130, 40), (110, 108, 105)


def test_what_surrounds_a_thing_is_found_to_its_edge_and_has_no_name() -> None:
    shown = scene(BLUE, GREEN)
    around = scenery.surroundings(shown)
    assert around is not None
    assert not around.row.names
    assert not around.ids[shown.ids > 0].any()
    for which in (0, 1):
        whole = half(which) & (shown.ids == 0)
        found = around.ids == np.bincount(around.ids[whole]).argmax()
        assert (found & whole).sum() > 0.9 * (found | whole).sum()


def test_a_photo_that_is_one_surface_has_nothing_around_things() -> None:
    assert scenery.surroundings(scene(GREY, GREY)) is None


def test_sky_and_grass_are_named_where_they_are_and_nothing_else_is() -> None:
    told = scenery.with_scenery(scene(BLUE, GREEN, rough=12))
    assert told.row.names == {1: "ball", scenery.SKY: "sky", scenery.GRASS: "grass"}
    for key, which in ((scenery.SKY, 0), (scenery.GRASS, 1)):
        found, whole = told.ids == key, half(which) & ~BALL
        assert (found & whole).sum() > 0.9 * (found | whole).sum()
    assert (told.ids[BALL] == 1).all()
    assert told.absent == ("cat",)


def test_what_no_colour_speaks_for_is_absent() -> None:
    told = scenery.with_scenery(scene(GREY, GREY))
    assert told.row.names == {1: "ball"}
    assert set(told.absent) == {"cat", "sky", "grass", "tree"}


def test_a_bright_wall_is_neither_called_sky_nor_said_to_be_none() -> None:
    told = scenery.with_scenery(scene((235, 235, 235), GREY))
    assert "sky" not in {*told.row.names.values(), *told.absent}


def test_of_a_photo_of_which_only_the_class_is_known_scenery_is_all_that_has_names() -> None:
    shown = scene(BLUE, GREY)
    classed = replace(shown, row=replace(shown.row, mask=None, kind="image_label"), ids=np.zeros_like(shown.ids))
    told = scenery.with_scenery(classed)
    assert told.row.names == {scenery.SKY: "sky"}
    assert told.row.kind == "semantic"


def with_a(name: str, photo: Photo) -> Photo:
    return replace(photo, row=replace(photo.row, names={1: name}))


def test_the_grey_ground_below_a_car_is_a_road_and_below_a_cat_nothing() -> None:
    street = with_a("car", scene(BLUE, GREY, rough=4))
    found = scenery.ground(street)
    assert found is not None
    assert found.row.names == {scenery.ROAD: "road"}
    road, whole = found.ids == scenery.ROAD, half(1) & ~BALL
    assert (road & whole).sum() > 0.9 * (road | whole).sum()
    assert scenery.ground(with_a("cat", street)) is None


def test_a_meadow_below_a_car_is_no_road() -> None:
    assert scenery.ground(with_a("car", scene(BLUE, GREEN, rough=12))) is None


def test_a_room_has_a_floor_below_and_a_wall_above() -> None:
    found = scenery.ground(with_a("bed", scene((190, 170, 150), (120, 90, 70))))
    assert found is not None
    assert found.row.names == {scenery.FLOOR: "floor", scenery.WALL: "wall"}
    assert (found.ids[:60, 20:] == scenery.WALL).mean() > 0.9
    assert (found.ids[150:] == scenery.FLOOR)[~BALL[150:]].mean() > 0.9
