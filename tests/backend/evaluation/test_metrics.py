"""Measures of quality against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.evaluation.metrics import (
    MOST_CLICKS,
    Assumptions,
    Clicked,
    at_threshold,
    best_threshold,
    boundary_f,
    estimate,
    match,
    next_click,
    quality,
    simulate,
)
from backend.evaluation.report import Clicking, compare
from backend.evaluation.samples import Sample
from backend.labelstudio.shapes import DrawnRegion
from backend.values.masks import Masks, MaskSet
from backend.values.session import Question, Round
from prompts.geometry import BoolArray
from tests.backend.bulk.runs import context_for
from tests.backend.pictures import disc, square, two_shapes


def region(label: str, x0: int, y0: int, side: int, score: float = 1.0) -> DrawnRegion:
    return DrawnRegion(f"{label}{x0}", square(100, 100, x0, y0, side), label, score)


def test_panoptic_quality_is_what_its_paper_says() -> None:
    """One exact match, one match shifted by 2 of 20 columns (IoU 18/22), one miss, one false alarm."""
    truth = [region("cat", 0, 0, 20), region("cat", 40, 0, 20), region("cat", 0, 60, 20)]
    predicted = [region("cat", 0, 0, 20, 0.9), region("cat", 42, 0, 20, 0.8), region("cat", 70, 70, 10, 0.7)]
    found = quality(match(truth, predicted))
    assert (found.matches, found.misses, found.false_alarms) == (2, 1, 1)
    assert found.sq == pytest.approx((1 + 18 / 22) / 2)
    assert found.rq == pytest.approx(2 / 3)
    assert found.pq == pytest.approx(found.sq * 2 / 3)
    assert (found.precision, found.recall) == (pytest.approx(2 / 3), pytest.approx(2 / 3))


def test_another_label_at_the_same_place_is_a_miss_and_a_false_alarm() -> None:
    found = quality(match([region("cat", 0, 0, 20)], [region("dog", 0, 0, 20)]))
    assert (found.matches, found.misses, found.false_alarms, found.pq) == (0, 1, 1, 0)


def test_two_predictions_of_one_thing_are_one_match_and_one_false_alarm() -> None:
    pairs = match([region("cat", 0, 0, 20)], [region("cat", 0, 0, 20, 0.5), region("cat", 1, 0, 20, 0.9)])
    assert sorted((pair.is_match, pair.score) for pair in pairs) == [(False, 0.5), (True, 0.9)]


def test_an_iou_of_one_half_is_no_match() -> None:
    """Above it a match is the only one that there can be."""
    found = quality(match([region("cat", 0, 0, 30)], [region("cat", 10, 0, 30)]))
    assert (found.matches, found.misses, found.false_alarms) == (0, 1, 1)


def test_thresholds_turn_matches_into_misses_and_drop_false_alarms() -> None:
    truth = [region("cat", 0, 0, 20), region("cat", 40, 0, 20)]
    predicted = [region("cat", 0, 0, 20, 0.9), region("cat", 40, 0, 20, 0.4), region("cat", 70, 70, 10, 0.55)]
    pairs = match(truth, predicted)
    assert (at_threshold(pairs, 0.5).precision, at_threshold(pairs, 0.5).recall) == (0.5, 0.5)
    assert (at_threshold(pairs, 0.6).precision, at_threshold(pairs, 0.6).recall) == (1.0, 0.5)
    assert best_threshold(pairs) == (0.0, pytest.approx(0.8))


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=8), st.floats(0, 1))
def test_a_threshold_equals_matching_without_the_lower_predictions(found: list[tuple[float, bool]], threshold: float) -> None:
    truth = [region("cat", 12 * (k % 8), 0, 10) for k in range(len(found))]
    predicted = [region("cat", 12 * (k % 8), 0 if hit else 50, 10, score) for k, (score, hit) in enumerate(found)]
    kept = [each for each in predicted if each.score >= threshold]
    assert at_threshold(match(truth, predicted), threshold) == quality(match(truth, kept))


def test_the_boundary_measure_is_1_within_its_reach_and_falls_beyond_it() -> None:
    truth = square(200, 200, 50, 50, 80)
    assert boundary_f(truth, truth) == 1
    assert boundary_f(square(200, 200, 52, 50, 80), truth) == 1
    assert boundary_f(square(200, 200, 53, 50, 80), truth) < 1
    assert 0.3 < boundary_f(square(200, 200, 60, 50, 80), truth) < 0.8
    assert boundary_f(np.zeros_like(truth), truth) == 0


def test_a_click_goes_into_the_middle_of_the_largest_error() -> None:
    truth = disc(100, 100, 30, 40, 20)
    first = next_click(np.zeros_like(truth), truth)
    assert first.positive
    assert np.hypot(first.xy[0] - 30, first.xy[1] - 40) < 2
    too_much = truth | square(100, 100, 60, 60, 30)
    second = next_click(too_much, truth)
    assert not second.positive
    assert np.hypot(second.xy[0] - 75, second.xy[1] - 75) < 2


def test_one_click_is_enough_where_colours_tell_the_object(tmp_path: object) -> None:
    from pathlib import Path

    picture = two_shapes()
    segmenter = context_for(None, Path(str(tmp_path))).engine.segmenter()
    clicked = simulate(segmenter, picture.image, picture.shapes["red disc"], 0.9)
    assert clicked.ious == [1.0]
    assert (clicked.needed(0.85), Clicked([0.1] * MOST_CLICKS).needed(0.85)) == (1, 20)


class Reaching:
    """Finds one column more with every click, and has an engine's version."""

    def __init__(self, truth: BoolArray) -> None:
        self.engine = SimpleNamespace(version="reaching-1")
        self.asked: list[Question] = []
        self._truth = truth

    def segment(self, questions: Sequence[Question]) -> list[Round]:
        (question,) = questions
        self.asked.append(question)
        mask = self._truth.copy()
        mask[:, 10 + len(self.asked) :] = False
        logits = np.full((1, 4, 4), len(self.asked), np.float16)
        one = np.ones(1, np.float32)
        return [
            Round(question.prompts, MaskSet(Masks.of_stack(mask[None]), one, (None,), logits, np.zeros((1, 2), np.float32)))
        ]


def test_each_click_is_added_to_the_last_ones_and_the_last_mask_is_remembered() -> None:
    """Columns 10 to 19 of an image, one more with every click: an IoU of 0.9 takes nine."""
    truth = square(40, 40, 10, 5, 10)
    segmenter = Reaching(truth)
    clicked = simulate(segmenter, np.zeros((40, 40, 3), np.uint8), truth, 0.9)  # type: ignore[arg-type]
    assert clicked.ious == pytest.approx([0.1 * number for number in range(1, 10)])
    assert (clicked.needed(0.85), clicked.needed(0.9), clicked.needed(0.95)) == (9, 9, MOST_CLICKS)
    clicks = [question.prompts.prompts for question in segmenter.asked]
    assert [len(each) for each in clicks] == list(range(1, 10))
    assert all(later[: len(earlier)] == earlier for earlier, later in pairwise(clicks))
    memories = [question.memory for question in segmenter.asked]
    assert memories[0] is None
    assert [memory.low_res_logits[0, 0] for memory in memories[1:] if memory is not None] == list(range(1, 9))


def test_the_worst_images_come_first_and_only_so_many_regions_are_clicked(tmp_path: Path) -> None:
    picture = two_shapes()
    cat = DrawnRegion("a", picture.shapes["red disc"], "cat", 1.0)
    samples = [Sample(f"{count}", "", "", [cat], [cat] * count) for count in (1, 3, 0, 2, 9)]
    clicking = Clicking(context_for(None, tmp_path).engine.segmenter(), 2)
    found = compare(samples, lambda _: picture.image, clicking)
    assert [case.sample_key for case in found.worst[:2]] == ["9", "3"]
    assert {case.sample_key for case in found.worst[2:]} == {"0", "2"}
    assert [len(clicked.ious) for clicked in found.clicked] == [1, 1]


def test_the_time_saved_follows_from_the_assumptions() -> None:
    """Two accepted (4 s each), one missed (80 s by hand), one deleted (3 s), against three masks by hand."""
    truth = [region("cat", 0, 0, 20), region("cat", 40, 0, 20), region("cat", 0, 60, 20)]
    predicted = [region("cat", 0, 0, 20), region("cat", 40, 0, 20), region("cat", 70, 70, 10)]
    effort = estimate(match(truth, predicted), None, Assumptions())
    assert effort.by_hand_h == pytest.approx(240 / 3600)
    assert effort.with_predictions_h == pytest.approx(91 / 3600)
    with_clicks = estimate(match(truth, predicted), 2.0, Assumptions())
    assert with_clicks.with_predictions_h == pytest.approx((8 + 2 * 3 + 4 + 3) / 3600)
