"""The colour engine follows objects exactly: both ways, later ones too, hidden ones, and after corrections."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from backend.engines.base import Tracker
from backend.engines.colour import build
from backend.values.errors import RequestError
from backend.video.film import Film, open_film
from backend.video.following import Mark, follow, follow_all
from prompts.geometry import BoolArray
from prompts.kinds import BoxPrompt, Image, MaskPrompt, PointPrompt, PromptSet
from tests.backend.video.films import Recipe, write_film

RED, BLUE, GREY = (220, 30, 30), (30, 40, 220), (128, 128, 128)
COUNT, HEIGHT, WIDTH = 24, 64, 128
Places = Callable[[int], list[tuple[tuple[int, int, int], int, int]]]


def paint(number: int, places: Places) -> Image:
    image = np.full((HEIGHT, WIDTH, 3), GREY, np.uint8)
    for colour, x, y in places(number):
        image[y : y + 16, x : x + 16] = colour
    return image


def film_of(tmp_path: Path, places: Places) -> Film:
    return open_film(write_film(tmp_path / "a.mkv", [paint(k, places) for k in range(COUNT)], Recipe(codec="ffv1")))


def square(x: int, y: int) -> BoolArray:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[y : y + 16, x : x + 16] = True
    return mask


def two(number: int) -> list[tuple[tuple[int, int, int], int, int]]:
    """Red goes right by four pixels a frame and is hidden on frames 10 to 12; blue goes left below."""
    red = [] if 10 <= number <= 12 else [(RED, 4 * number, 4)]
    return [*red, (BLUE, 110 - 4 * number, 40)]


def iou(left: BoolArray, right: BoolArray) -> float:
    return float((left & right).sum() / (left | right).sum())


def tracker() -> Tracker:
    found = build(None).tracker
    assert found is not None
    return found


@pytest.mark.parametrize("start", [0, 8, COUNT - 1])
def test_an_object_is_followed_both_ways_from_any_frame_and_found_again_after_it_was_hidden(start: int, tmp_path: Path) -> None:
    click = Mark(start, 1, PromptSet((PointPrompt((4 * start + 8.0, 12.0)),)))

    (track,) = follow_all(film_of(tmp_path, two), tracker(), [click]).tracks

    there = [k for k in range(COUNT) if not 10 <= k <= 12]
    assert list(track.masks) == there
    assert [k for k, mask in track.masks.items() if mask.is_given] == [start]
    assert min(iou(track.masks[k].decode(), square(4 * k, 4)) for k in there) > 0.9
    assert list(track.spans()) == [(0, 9), (13, COUNT - 1)]


def test_an_object_added_later_changes_nothing_of_the_earlier_one(tmp_path: Path) -> None:
    film = film_of(tmp_path, two)
    red = Mark(2, 1, PromptSet((PointPrompt((16.0, 12.0)),)))
    blue = Mark(15, 2, PromptSet((BoxPrompt((50, 40, 66, 56)),)))

    alone = follow_all(film, tracker(), [red])
    both = follow_all(film, tracker(), [blue, red])

    assert both.tracks[0] == alone.tracks[0]
    assert list(both.tracks[1].masks) == list(range(COUNT))
    assert min(iou(both.tracks[1].masks[k].decode(), square(110 - 4 * k, 40)) for k in range(COUNT)) > 0.9
    assert sorted(both.on(3)) == [1, 2]


def test_a_range_leaves_the_other_frames_alone(tmp_path: Path) -> None:
    click = Mark(15, 1, PromptSet((PointPrompt((68.0, 12.0)),)))

    found = list(follow(film_of(tmp_path, two), tracker(), [click], 13, 18))

    assert [each.frame for each in found] == [15, 16, 17, 14, 13]


def test_a_correction_on_a_later_frame_refines_the_rest_and_leaves_what_came_before(tmp_path: Path) -> None:
    """Two red squares; the click follows the upper one, and from frame 12 on a mask says that the lower one is meant."""

    def twins(number: int) -> list[tuple[tuple[int, int, int], int, int]]:
        return [(RED, 4 * number, 4), (RED, 4 * number, 40)]

    film = film_of(tmp_path, twins)
    click = Mark(0, 1, PromptSet((PointPrompt((8.0, 12.0)),)))
    correction = Mark(12, 1, PromptSet((MaskPrompt(square(48, 40)),)))

    plain = follow_all(film, tracker(), [click]).tracks[0]
    mended = follow_all(film, tracker(), [click, correction]).tracks[0]

    assert all(mended.masks[k] == plain.masks[k] for k in range(12))
    assert min(iou(mended.masks[k].decode(), square(4 * k, 40)) for k in range(12, COUNT)) > 0.9


def test_marks_that_cannot_be_followed_are_refused_with_their_frame(tmp_path: Path) -> None:
    film = film_of(tmp_path, two)
    outside = Mark(3, 1, PromptSet((PointPrompt((900.0, 12.0)),)))
    against = Mark(3, 1, PromptSet((PointPrompt((8.0, 12.0), positive=False),)))

    for marks, sentence in (
        ([], "nothing to follow"),
        ([Mark(99, 1, PromptSet(()))], "frames 0 to 23, got one on frame 99"),
        ([outside], r"frame 3, object 1: the point at \(.*\) lies outside"),
        ([against], "frame 3, object 1: expected something drawn"),
    ):
        with pytest.raises(RequestError, match=sentence):
            list(follow(film, tracker(), marks))
