"""Simulated prompts: they say something true about the object, and corrections go where the answer is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.engines.embedded.network import BOX, NEGATIVE, POSITIVE, SAID
from backend.engines.embedded.views import CLOSE_SIDE, SIDE
from tests.backend.pictures import disc, square
from train.rounds import correct, distort, largest_error, make_view

TARGET = disc(200, 300, 150, 90, 60)
IMAGE = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
NO_VOID = np.zeros((200, 300), np.bool_)


@given(st.integers(0, 10_000))
def test_every_view_shows_part_of_the_object_and_one_kind_of_prompt(seed: int) -> None:
    view = make_view(IMAGE, TARGET, NO_VOID, np.random.default_rng(seed))
    assert view.image.shape == (CLOSE_SIDE, CLOSE_SIDE, 3)
    assert view.target.any()
    assert 0 < view.share <= 1
    drawn = view.maps.max(axis=(1, 2)) > 0.1
    assert drawn.sum() >= 1
    assert not drawn[SAID]
    assert view.maps.min() >= 0
    assert view.maps.max() <= 1 + 1e-5


@given(st.integers(0, 10_000))
def test_a_first_click_lies_on_the_object(seed: int) -> None:
    view = make_view(IMAGE, TARGET, NO_VOID, np.random.default_rng(seed))
    if view.kind == "click":
        row, column = np.unravel_index(int(view.maps[POSITIVE].argmax()), view.maps.shape[1:])
        assert view.target[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].any()


def test_a_first_click_is_often_right_in_the_middle_of_its_view_as_it_is_when_somebody_clicks() -> None:
    views = [make_view(IMAGE, TARGET, NO_VOID, np.random.default_rng(seed)) for seed in range(400)]
    clicked = [view.maps[POSITIVE] for view in views if view.kind == "click" and view.window.length < 200]
    middle = [abs(np.array(np.unravel_index(int(each.argmax()), each.shape)) - 23.5).max() < 2 for each in clicked]
    assert 0.3 < np.mean(middle) < 0.9


def test_half_of_the_earlier_answers_come_with_the_click_that_they_follow() -> None:
    views = [make_view(IMAGE, TARGET, NO_VOID, np.random.default_rng(seed)) for seed in range(400)]
    clicked = [view.maps[POSITIVE].max() > 0.1 for view in views if view.kind == "previous"]
    assert 0.3 < np.mean(clicked) < 0.7


def test_the_box_of_what_reaches_the_photo_s_rim_ends_there() -> None:
    """A box around a meadow is told from one around a thing on it by where it ends."""
    meadow = np.arange(200)[:, None] >= np.full(300, 120)
    views = [make_view(IMAGE, meadow, NO_VOID, np.random.default_rng(seed)) for seed in range(200)]
    boxed = [view for view in views if view.kind == "box"]
    assert len(boxed) > 30
    for view in boxed:
        (left, _), (right, bottom) = view.window.to_view(np.array([(0, 0), (300, 200)], np.float64))
        drawn = view.maps[BOX] > 0
        columns, rows = np.flatnonzero(drawn.any(axis=0)), np.flatnonzero(drawn.any(axis=1))
        assert 2 * columns[0] == pytest.approx(left, abs=2)
        assert 2 * (columns[-1] + 1) == pytest.approx(right, abs=2)
        assert 2 * (rows[-1] + 1) == pytest.approx(bottom, abs=2)
    tops = [2 * np.flatnonzero((view.maps[BOX] > 0).any(axis=1))[0] for view in boxed]
    assert np.std(tops) > 1, "the side that lies within the photo is drawn as people draw"


def test_a_correction_is_negative_where_too_much_was_claimed() -> None:
    view = make_view(IMAGE, TARGET, NO_VOID, np.random.default_rng(3))
    view.maps[:] = 0
    view.target = disc(SIDE, SIDE, 30, 48, 20)
    too_much = (view.target | square(SIDE, SIDE, 60, 30, 30)).astype(np.float32)
    correct(view, too_much, np.random.default_rng(0))
    row, column = np.unravel_index(int(view.maps[NEGATIVE].argmax()), view.maps.shape[1:])
    assert abs(2 * row - 45) < 8
    assert abs(2 * column - 75) < 8
    assert view.maps[POSITIVE].max() == 0
    assert view.rounds == 2


def test_a_correction_is_positive_where_something_is_missing() -> None:
    view = make_view(IMAGE, TARGET, NO_VOID, np.random.default_rng(3))
    view.maps[:] = 0
    view.target = disc(SIDE, SIDE, 48, 48, 30)
    correct(view, np.zeros((SIDE, SIDE), np.float32), np.random.default_rng(0))
    assert view.maps[POSITIVE].max() > 0.8
    assert view.maps[NEGATIVE].max() == 0


def test_the_largest_error_is_clicked_at_its_deepest_point() -> None:
    wrong = square(50, 80, 5, 5, 6) | square(50, 80, 30, 10, 21)
    assert largest_error(wrong) == (40.5, 20.5)
    assert largest_error(np.zeros((5, 5), np.bool_)) is None


@pytest.mark.parametrize("seed", range(20))
def test_a_rough_mask_still_overlaps_its_object(seed: int) -> None:
    target = disc(SIDE, SIDE, 48, 48, 30)
    rough = distort(target, np.random.default_rng(seed))
    assert (rough & target).sum() / (rough | target).sum() > 0.3
