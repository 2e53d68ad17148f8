"""The measures of `make bench-quality`, against values that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from backend.values.masks import Masks, MaskSet
from bench.quality import baselines, report
from bench.quality.cases import spread
from bench.quality.measures import boundary_f, clicks_needed, f1, iou, next_click, reliability
from bench.quality.tasks import Case, Outcome
from prompts.geometry import Size
from tests.backend.pictures import disc, square

NO_VOID = np.zeros((60, 80), np.bool_)


def test_the_void_counts_neither_for_nor_against() -> None:
    truth, answer = square(60, 80, 10, 10, 20), square(60, 80, 10, 10, 30)
    assert iou(answer, truth, NO_VOID) == pytest.approx(400 / 900)
    assert iou(answer, truth, answer & ~truth) == 1


def test_two_empty_masks_agree() -> None:
    assert iou(NO_VOID, NO_VOID, NO_VOID) == 1


def test_the_first_click_is_the_middle_of_the_object() -> None:
    click = next_click(NO_VOID, square(60, 80, 20, 10, 21), NO_VOID)
    assert click == ((30.5, 20.5), True)


def test_the_next_click_is_negative_where_too_much_was_claimed() -> None:
    truth = square(60, 80, 0, 0, 10)
    assert next_click(truth | square(60, 80, 40, 20, 21), truth, NO_VOID) == ((50.5, 30.5), False)


def test_a_perfect_answer_needs_no_click() -> None:
    truth = disc(60, 80, 30, 30, 10)
    assert next_click(truth, truth, NO_VOID) is None


def test_clicks_are_counted_to_the_first_that_suffices_and_capped() -> None:
    assert clicks_needed([0.5, 0.86, 0.8, 0.95], 0.85) == 2
    assert clicks_needed([0.5, 0.6], 0.85) == 20


def test_the_boundary_measure_forgives_a_pixel_and_no_more() -> None:
    truth = disc(60, 80, 30, 30, 15)
    assert boundary_f(truth, truth) == 1
    assert boundary_f(np.roll(truth, 1, axis=1), truth) == pytest.approx(1, abs=0.02)
    assert boundary_f(np.roll(truth, 12, axis=1), truth) < 0.4
    assert boundary_f(NO_VOID, truth) == 0


def test_f1_is_the_harmonic_mean() -> None:
    assert f1(found=6, invented=2, missed=4) == pytest.approx(2 * 0.75 * 0.6 / 1.35)
    assert f1(0, 3, 4) == 0


def test_an_honest_score_lies_on_the_diagonal() -> None:
    scores = np.array([0.15, 0.15, 0.95, 0.95])
    assert reliability(scores, np.array([0.1, 0.2, 0.9, 1.0])) == [
        (pytest.approx(0.15), pytest.approx(0.15), 2),
        (pytest.approx(0.95), pytest.approx(0.95), 2),
    ]


def test_cases_are_spread_over_their_sources() -> None:
    assert spread([[1, 2, 3], [10], [20, 21]], 5) == [1, 10, 20, 2, 21]


def test_grabcut_finds_a_red_disc_on_green() -> None:
    truth = disc(60, 80, 40, 30, 18)
    image = np.where(truth[:, :, None], (200, 20, 20), (20, 160, 30)).astype(np.uint8)
    image += np.random.default_rng(0).integers(0, 12, image.shape, np.uint8)
    assert iou(baselines.grabcut_box(image, (20, 10, 60, 50)), truth, NO_VOID) > 0.95
    assert iou(baselines.grabcut_clicks(image, [((40.0, 30.0), True)], None), truth, NO_VOID) > 0.8


def test_the_rectangle_in_the_middle_covers_its_share() -> None:
    assert baselines.middle(Size(60, 80), 0.5).mean() == 0.25


def test_the_page_opens_with_what_names_find_on_example_photos() -> None:
    photo, mask = np.full((60, 80, 3), 200, np.uint8), square(60, 80, 10, 10, 20)
    logits, embeddings = np.zeros((1, 4, 4), np.float16), np.eye(1, 4, dtype=np.float32)
    found = MaskSet(Masks.of_stack(mask[None]), np.array([0.5], np.float32), ("cup",), logits, embeddings)
    outcome = Outcome("text", 1, {"IoU": {"maskloom": 0.5}}, [Case(photo, mask, mask, "cat", 1.0)])
    page = report.page([outcome], "all", [(photo, found), (photo, MaskSet.empty(Size(60, 80)))])
    captions = [page.index(f"<figcaption>{told}</figcaption>") for told in ("cup 0.50", "nothing", "cat: IoU 1.00")]
    assert captions == sorted(captions)
    assert captions[1] < page.index("<table>") < captions[2]
