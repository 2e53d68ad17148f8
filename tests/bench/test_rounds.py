"""The simulated annotator counts what is done about every suggestion; the colour engine's right answers can be told by eye."""

from __future__ import annotations

import numpy as np
import pytest

from backend.engines.catalogue import find_engine
from backend.segmenter import Segmenter
from backend.values.features import FeatureCache
from bench.rounds import CLICKED, CORRECTED, DELETED, KEPT, MOST_CLICKS, Annotator, Tally, Task
from prompts.geometry import BoolArray
from prompts.kinds import KeyedImage
from prompts.phrases import Vocabulary
from tests.backend.pictures import disc

COLOUR = (180, 60, 60)


def task(column: int, label: str | None = "zorp", share: float = 1.0) -> Task:
    """A disc on white whose truth is the left share of it."""
    truth: BoolArray = disc(48, 96, column, 24, 12)
    pixels = np.full((48, 96, 3), 255, np.uint8)
    pixels[truth] = COLOUR
    wanted = truth & (np.arange(96) < column - 12 + 24 * share)
    return Task(KeyedImage.of(pixels), label, wanted, np.zeros_like(truth))


def rounds_of(learns: bool, *rounds: list[Task]) -> list[Tally]:
    segmenter = Segmenter(find_engine("colour").load(None), FeatureCache(1 << 24))
    annotator, tallies = Annotator(segmenter, Vocabulary.from_names(["zorp"]), learns), [Tally() for _ in rounds]
    for tasks, tally in zip(rounds, tallies, strict=True):
        annotator.work(tasks, tally)
    return tallies


def test_what_was_clicked_once_is_suggested_and_kept_by_who_learns_and_clicked_again_by_who_does_not() -> None:
    first, second = [task(20), task(30)], [task(40), task(50)]
    assert [each.done for each in rounds_of(True, first, second)] == [
        {DELETED: [0, 0, 0], CLICKED: [2, 2, 0]},
        {DELETED: [0, 0, 0], KEPT: [2, 0, 0]},
    ]
    assert [each.of(CLICKED) for each in rounds_of(False, first, second)] == [(2, 2, 0), (2, 2, 0)]


def test_a_suggestion_for_what_is_no_object_is_deleted_and_one_that_no_click_mends_is_given_up() -> None:
    _, second = rounds_of(True, [task(20)], [task(40, None), task(50, share=0.8)])
    assert second.done == {DELETED: [1, 1, 0], CORRECTED: [1, MOST_CLICKS, 1]}
    assert (second.objects, second.ious) == (1, [pytest.approx(0.8, abs=0.1)])
