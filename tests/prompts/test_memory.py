"""Whose the previous answer is, among several objects that are drawn at once."""

from __future__ import annotations

import numpy as np
import pytest

from prompts.kinds import BoxPrompt, PointPrompt, PromptSet
from prompts.memory import best_cut, owner_of
from tests.backend.pictures import square

BEFORE = square(80, 120, 30, 30, 20)
ON_IT, LARGER, ELSEWHERE = BoxPrompt((30, 30, 50, 50)), BoxPrompt((10, 10, 90, 70)), BoxPrompt((90, 5, 110, 25))


def test_the_box_around_the_previous_mask_owns_it_wherever_it_stands_in_the_row() -> None:
    for boxes, owner in (((ON_IT, ELSEWHERE), 0), ((ELSEWHERE, ON_IT), 1), ((LARGER, ON_IT), 1), ((ON_IT, LARGER), 0)):
        assert owner_of([PromptSet((box,)) for box in boxes], BEFORE) == owner


def test_a_click_against_it_counts_as_one_on_it() -> None:
    against = PromptSet((ELSEWHERE, PointPrompt((40, 40), positive=False)))
    assert owner_of([PromptSet((BoxPrompt((0, 0, 5, 5)),)), against], BEFORE) == 1


def test_where_nothing_is_drawn_on_it_nobody_owns_it_but_a_single_object_does() -> None:
    assert owner_of([PromptSet((ELSEWHERE,)), PromptSet((BoxPrompt((0, 0, 5, 5)),))], BEFORE) is None
    assert owner_of([PromptSet((ELSEWHERE,))], BEFORE) == 0
    assert owner_of([], np.zeros((80, 120), np.bool_)) is None


@pytest.mark.parametrize(
    ("inside", "outside", "cut"),
    [([0.9, 0.8], [0.2, 0.4], 0.6), ([0.9, 0.8, 0.1], [0.2, 0.4], 0.6), ([0.9, 0.7], [], 0.7), ([], [0.3], None)],
)
def test_the_best_cut_lies_in_the_middle_of_the_gap(inside: list[float], outside: list[float], cut: float | None) -> None:
    found = best_cut(np.array(inside, np.float32), np.array(outside, np.float32))
    assert found == (None if cut is None else pytest.approx(cut))
