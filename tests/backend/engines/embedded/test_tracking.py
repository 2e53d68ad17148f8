"""The embedded engine follows by its own decoder and memory: through motion, past a gap, and onto what a correction shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.engines.base import Tracker
from backend.engines.embedded import build
from backend.engines.embedded.tracking import _Memory
from backend.engines.embedded.views import Answer
from prompts.examples import Examples
from prompts.geometry import BoolArray
from prompts.kinds import BoxPrompt, Image, MaskPrompt, PointPrompt, PromptError, PromptSet

pytestmark = pytest.mark.slow

HEIGHT, WIDTH = 120, 192


@pytest.fixture(scope="module")
def tracker() -> Tracker:
    found = build(None).tracker
    assert found is not None
    return found


def place(number: int) -> BoolArray:
    rows, columns = np.indices((HEIGHT, WIDTH))
    disc: BoolArray = np.hypot(columns - (50 + 5 * number), rows - 60) < 24
    return disc


def picture(number: int, *, hidden: bool = False) -> Image:
    """An orange ball that rolls five pixels a frame over green noise."""
    dice = np.random.default_rng(5)
    image = dice.integers(60, 120, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    image[..., 1] += 60
    if not hidden:
        image[place(number)] = (235, 120, 20)
    return image


def iou(left: BoolArray, right: BoolArray) -> float:
    return float((left & right).sum() / (left | right).sum())


def test_a_ball_is_followed_from_its_box(tracker: Tracker) -> None:
    session = tracker.start(1)
    first = session.prompt(0, picture(0), 3, PromptSet((BoxPrompt((26, 36, 74, 84)),)))

    found = [session.follow(number, picture(number))[3] for number in range(1, 4)]

    assert iou(first.mask, place(0)) > 0.8
    assert min(iou(each.mask, place(number)) for number, each in enumerate(found, 1)) > 0.75
    assert min(each.score for each in found) > 0.5


def test_a_ball_that_is_hidden_is_nowhere_and_is_found_again(tracker: Tracker) -> None:
    session = tracker.start(1)
    session.prompt(0, picture(0), 1, PromptSet((MaskPrompt(place(0)),)))

    gone = [session.follow(number, picture(number, hidden=True))[1] for number in (1, 2)]
    back = session.follow(3, picture(3))[1]

    assert max(each.score for each in gone) < back.score
    assert iou(back.mask, place(3)) > 0.75


def test_a_mask_is_taken_as_it_is_and_corrects_what_follows(tracker: Tracker) -> None:
    session = tracker.start(1)
    wrong = np.zeros((HEIGHT, WIDTH), np.bool_)
    wrong[5:25, 150:180] = True
    session.prompt(0, picture(0), 1, PromptSet((MaskPrompt(wrong),)))
    session.follow(1, picture(1))

    given = session.prompt(1, picture(1), 1, PromptSet((MaskPrompt(place(1)),)))
    after = session.follow(2, picture(2))[1]

    np.testing.assert_array_equal(given.mask, place(1))
    assert iou(after.mask, place(2)) > 0.6


def test_nothing_drawn_on_the_object_is_refused(tracker: Tracker) -> None:
    with pytest.raises(PromptError, match="drawn on the object"):
        tracker.start(1).prompt(0, picture(0), 1, PromptSet((PointPrompt((50, 60), positive=False),)))


def test_a_part_that_stays_apart_and_looks_unlike_what_was_prompted_is_given_up_however_large() -> None:
    logits = np.full((60, 90), -8, np.float32)
    logits[5:25, 5:25] = logits[5:10, 30:40] = 4
    alone = Answer(logits.copy(), 0.7)
    logits[30:58, 20:88] = 6
    leaked = Answer(logits, 0.7)
    trusted = np.full((60, 90), 0.2, np.float32)
    trusted[5:25, 5:25] = 0.8
    trusted[5:10, 30:40] = 0.6
    memory = _Memory(np.zeros((60, 90), np.float32), Examples(torch.zeros(0, 4), torch.zeros(0, 4)))

    answers = [memory.own_part(each, trusted) for each in (leaked, leaked, alone, leaked, leaked, leaked, leaked)]

    kept = [bool((each.logits[30:58, 20:88] > 0).any()) for each in answers]
    assert kept == [True, True, False, True, True, False, False]
    assert all((each.logits > 0)[5:25, 5:25].all() and (each.logits > 0)[5:10, 30:40].all() for each in answers)
