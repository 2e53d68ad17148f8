"""The edge step: a smooth answer takes the outline that the colours have, and nothing that was drawn is overruled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from backend.engines.embedded.edges import guided, sharpen, solved
from backend.engines.embedded.from_drawing import Drawing
from backend.engines.embedded.views import Answer, Canvas
from backend.values.features import ImageFeatures
from prompts.geometry import Size
from prompts.kinds import BoxPrompt, PointPrompt, PromptSet

SIZE = Size(120, 160)
ROWS, COLUMNS = np.mgrid[: SIZE.height, : SIZE.width]
STAR = (np.abs(ROWS - 60) < 8) & (np.abs(COLUMNS - 80) < 45) | (np.abs(COLUMNS - 80) < 8) & (np.abs(ROWS - 60) < 45)
ROUND = (ROWS - 60) ** 2 + (COLUMNS - 80) ** 2 < 32**2


@pytest.fixture
def canvas() -> Canvas:
    """A yellow cross on a blue ground, both a little noisy."""
    image = np.where(STAR[:, :, None], (220, 200, 40), (40, 60, 160)).astype(np.float64)
    pixels = (image + np.random.default_rng(0).normal(0, 6, image.shape)).clip(0, 255).astype(np.uint8)
    return Canvas(ImageFeatures(SIZE, torch.zeros(1, 1, 1)), pixels)


def blob(mask: NDArray[np.bool_], sure: float = 1.5) -> Answer:
    return Answer(np.where(mask, sure, -sure).astype(np.float32), 0.7)


def drawing(*prompts: BoxPrompt | PointPrompt) -> Drawing:
    return Drawing(PromptSet(prompts), {}, None, None)


def iou(answer: Answer, truth: NDArray[np.bool_]) -> float:
    mask = answer.logits > 0
    return float((mask & truth).sum() / (mask | truth).sum())


CROSS_WITH_FLESH = STAR & ROUND | ((ROWS - 60) ** 2 + (COLUMNS - 80) ** 2 < 16**2)


def test_a_smooth_answer_takes_the_outline_of_the_colours(canvas: Canvas) -> None:
    before = blob(CROSS_WITH_FLESH)
    after = sharpen(before, canvas, drawing())
    assert iou(after, STAR) > iou(before, STAR) + 0.1
    assert after.quality == before.quality


def rectangle(top: int, left: int, bottom: int, right: int) -> NDArray[np.bool_]:
    return (top <= ROWS) & (bottom > ROWS) & (left <= COLUMNS) & (right > COLUMNS)


def painted(thing: NDArray[np.bool_]) -> Canvas:
    """A yellow thing on a blue ground."""
    pixels = np.where(thing[:, :, None], np.uint8([220, 200, 40]), np.uint8([40, 60, 160]))
    return Canvas(ImageFeatures(SIZE, torch.zeros(1, 1, 1)), pixels)


@pytest.mark.parametrize(("length", "is_heard"), [(15, True), (40, False)])
def test_colours_are_heard_as_long_as_they_leave_half_of_the_answer(length: int, is_heard: bool) -> None:
    """A sure yellow part and an unsure blue one: the colours say that the blue one is ground."""
    thing = rectangle(45, 50, 75, 70)
    claimed = thing | rectangle(45, 70, 75, 70 + length)
    logits = np.where(thing, 2.8, np.where(claimed, 0.2, -1.5)).astype(np.float32)
    after = sharpen(Answer(logits, 0.7), painted(thing), drawing())
    assert iou(after, thing if is_heard else claimed) > 0.95


def test_an_edge_beyond_the_drawn_box_is_not_taken() -> None:
    thing, found = rectangle(36, 56, 84, 104), rectangle(40, 60, 80, 100)
    before = Answer(np.where(found, 2.5, -0.3).astype(np.float32), 0.7)
    assert iou(sharpen(before, painted(thing), drawing()), thing) > 0.95, "the colours reach further than the answer"
    boxed = sharpen(before, painted(thing), drawing(BoxPrompt((60.0, 40.0, 100.0, 80.0))))
    assert iou(boxed, found) == 1


def test_a_clicked_place_stays_inside_and_a_refused_one_outside(canvas: Canvas) -> None:
    ground, arm = (92.0, 74.0), (80.0, 40.0)
    clicks = drawing(PointPrompt(ground), PointPrompt(arm, positive=False))
    after = sharpen(blob(CROSS_WITH_FLESH), canvas, clicks)
    assert after.logits[74, 92] > 0
    assert after.logits[40, 80] < 0


def test_a_soft_map_falls_where_the_guide_has_its_edge() -> None:
    columns = np.broadcast_to(np.arange(96), (96, 96))
    guide = np.where((columns < 40)[:, :, None], (0.8, 0.7, 0.2), (0.2, 0.3, 0.6)).astype(np.float32)
    soft = (1 / (1 + np.exp((columns - 43) / 2))).astype(np.float32)
    before, after = (-np.diff(each[48]) for each in (soft, guided(soft, guide)))
    assert after.argmax() == 39, "between the last column of one colour and the first of the other"
    assert after.max() > 2 * before.max()
    assert guided(soft, np.zeros_like(guide)) == pytest.approx(guided(soft, np.ones_like(guide)), abs=1e-3), "no edge, no pull"


def test_small_systems_are_solved_as_a_solver_solves_them() -> None:
    dice = np.random.default_rng(0)
    root = 0.2 * dice.normal(size=(20, 30, 3, 3))
    matrix = (root @ root.transpose(0, 1, 3, 2) + 0.01 * np.eye(3)).astype(np.float32)
    wanted = dice.normal(size=(20, 30, 3)).astype(np.float32)
    assert solved(matrix, wanted) == pytest.approx(np.linalg.solve(matrix, wanted[..., None])[..., 0], rel=1e-3, abs=1e-2)


def test_an_empty_answer_stays_empty(canvas: Canvas) -> None:
    nothing = blob(np.zeros_like(STAR))
    assert sharpen(nothing, canvas, drawing()) is nothing
