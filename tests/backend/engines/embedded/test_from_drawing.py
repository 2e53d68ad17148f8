"""What a drawing may mean, the outline of its answer, and drawings on very long images: answered where they were drawn.

Both sides of a long image are made smaller before the network looks, each rounded to whole pixels by itself: on 40 x 4000
pixels a factor that is right for one side was a hundred pixels off on the other.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from backend.engines.base import Engine, OffersAlternatives
from backend.engines.embedded import build, from_drawing
from backend.engines.embedded.checkpoint import Checkpoint
from backend.engines.embedded.engine import EmbeddedDecoder
from backend.engines.embedded.evidence import Calibration
from backend.engines.embedded.from_drawing import Drawing, decode_object, draw_on, guided, sharpen, solved
from backend.engines.embedded.network import ViewDecoder
from backend.engines.embedded.places import CLOSE
from backend.engines.embedded.places import CONTEXT as CHANNELS
from backend.engines.embedded.views import CONTEXT, Answer, Canvas, Reader
from backend.values.features import ImageFeatures
from backend.values.masks import Masks, overlaps
from prompts.geometry import BoolArray, Size
from prompts.kinds import BoxPrompt, MaskPrompt, PointPrompt, Prompt, PromptSet
from tests.backend.pictures import BLUE, RED, disc, paint, square

PICTURE = paint({"disc": (disc(240, 320, 80, 120, 50), RED), "square": (square(240, 320, 190, 70, 90), BLUE)})


class Judging(ViewDecoder):
    """Finds the middle half of every view, and judges the views of each call as it is told."""

    def __init__(self, *judged: list[float]) -> None:
        super().__init__(CHANNELS, CLOSE)
        self._judged = list(judged)

    def forward(
        self, image: Tensor, maps: Tensor, grid: Tensor, context: Tensor, close: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        middle = torch.full((len(image), 96, 96), -4.0)
        middle[:, 24:72, 24:72] = 4
        return middle, torch.tensor(self._judged.pop(0))


class Filling(ViewDecoder):
    """Finds the whole of every view."""

    def forward(
        self, image: Tensor, maps: Tensor, grid: Tensor, context: Tensor, close: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        return torch.full((len(image), 96, 96), 4.0), torch.zeros(len(image))


def blind(images: Tensor) -> list[Tensor]:
    """A backbone that sees nothing."""
    return []


SEEN = {CONTEXT: torch.zeros(4, 8, 8)}
BOX = (100.0, 400.0, 200.0, 500.0)


@pytest.mark.parametrize(
    ("clicks", "stays"),
    [
        ((), True),
        ((PointPrompt((190, 410)),), True),
        ((PointPrompt((190, 410)), PointPrompt((450, 150), positive=False)), True),
        ((PointPrompt((190, 410)), PointPrompt((450, 150))), False),
    ],
)
def test_an_answer_stays_in_the_drawn_box_unless_something_was_clicked_outside(
    clicks: tuple[PointPrompt, ...], stays: bool
) -> None:
    canvas = Canvas(ImageFeatures(Size(640, 640), torch.zeros(4, 8, 8), SEEN), np.zeros((640, 640, 3), np.uint8))
    found = decode_object(
        Reader(Filling(CHANNELS, CLOSE), blind), canvas, draw_on(canvas, PromptSet((BoxPrompt(BOX), *clicks)), None, None)
    )
    assert found is not None
    x0, y0, x1, y1 = found.box() or (0, 0, 0, 0)
    reached = max(BOX[0] - x0, BOX[1] - y0, x1 - BOX[2], y1 - BOX[3])
    assert (reached <= 6) == stays, "a box and a little more"
    assert reached >= (2 if stays else 40)


@pytest.mark.parametrize(("judged", "side"), [([2.0, 1.0, 0.0], 320), ([0.0, 2.0, 1.0], 160), ([0.0, 1.0, 2.0], 80)])
def test_of_the_looks_at_three_scales_only_the_one_that_was_judged_best_is_followed(judged: list[float], side: int) -> None:
    canvas = Canvas(ImageFeatures(Size(640, 640), torch.zeros(4, 8, 8), SEEN), np.zeros((640, 640, 3), np.uint8))
    looking = Reader(Judging(judged, [0.5]), blind)
    found = decode_object(looking, canvas, draw_on(canvas, PromptSet((PointPrompt((320, 320)),)), None, None))
    assert found is not None
    box = found.box()
    assert box is not None
    assert box[2] - box[0] == pytest.approx(side * from_drawing.MARGIN / 2, abs=3), "the middle half of the window around it"
    assert found.quality == pytest.approx(float(torch.sigmoid(torch.tensor(0.5))))


@pytest.mark.slow
def test_one_click_is_answered_with_its_readings_the_decoder_s_own_answer_first() -> None:
    engine = build(None)
    (features,) = engine.decoder.encode_images([PICTURE.image])
    click = PromptSet((PointPrompt((80, 120)),))
    assert isinstance(engine.decoder, OffersAlternatives)
    with torch.inference_mode():
        readings = engine.decoder.decode_alternatives(features, click)
        answered = engine.decoder.decode(features, click, engine.space.embed(click, features), None)
    assert 1 < len(readings) <= 3
    assert np.array_equal(readings.masks[0], answered.masks[0])
    shape = PICTURE.shapes["disc"]
    best = max(float(overlaps(Masks.of_stack(np.stack([mask, shape])))[0][0, 1]) for mask in readings.masks)
    assert best > 0.8


def test_a_click_is_scored_lower_than_a_box_that_was_judged_alike_where_clicks_reach_less() -> None:
    pixels = torch.zeros(640, 640, 3, dtype=torch.uint8)
    canvas = ImageFeatures(Size(640, 640), torch.zeros(4, 8, 8), {"pixels": pixels, **SEEN})
    nothing: Any = SimpleNamespace(
        phrases=(),
        references=(),
        **dict.fromkeys(("text", "negative_text", "reference", "negative_reference"), torch.zeros(0, 4)),
    )
    calibration = Calibration(1, 0, 1, 0, 0.5, 0.5, marks_scale=0.5, marks_bias=-1.0)

    def score(prompt: Prompt, *judged: list[float]) -> float:
        decoder = EmbeddedDecoder(replace(Checkpoint.fresh(calibration), views=Judging(*judged)))
        return float(decoder.decode(canvas, PromptSet((prompt,)), nothing, None).scores[0])

    assert score(BoxPrompt((200, 200, 440, 440)), [2.0]) == pytest.approx(float(torch.sigmoid(torch.tensor(2.0))))
    assert score(PointPrompt((320, 320)), [2.0, 1.0, 0.0], [2.0]) == pytest.approx(0.5), "0.5 x 2 - 1 is a logit of 0"


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


def iou_of(answer: Answer, truth: NDArray[np.bool_]) -> float:
    mask = answer.logits > 0
    return float((mask & truth).sum() / (mask | truth).sum())


CROSS_WITH_FLESH = STAR & ROUND | ((ROWS - 60) ** 2 + (COLUMNS - 80) ** 2 < 16**2)


def test_a_smooth_answer_takes_the_outline_of_the_colours(canvas: Canvas) -> None:
    before = blob(CROSS_WITH_FLESH)
    after = sharpen(before, canvas, drawing())
    assert iou_of(after, STAR) > iou_of(before, STAR) + 0.1
    assert after.quality == before.quality


def rectangle(top: int, left: int, bottom: int, right: int) -> NDArray[np.bool_]:
    return (top <= ROWS) & (bottom > ROWS) & (left <= COLUMNS) & (right > COLUMNS)


def painted(thing: NDArray[np.bool_]) -> Canvas:
    """A yellow thing on a blue ground."""
    pixels = np.where(thing[:, :, None], np.uint8([220, 200, 40]), np.uint8([40, 60, 160]))
    return Canvas(ImageFeatures(SIZE, torch.zeros(1, 1, 1)), pixels)


def test_a_mask_that_is_clicked_is_an_answer_to_correct_and_one_alone_a_rough_drawing(canvas: Canvas) -> None:
    mask, click = MaskPrompt(STAR), PointPrompt((92, 74))
    alone, clicked = (draw_on(canvas, PromptSet(prompts), None, None) for prompts in ((mask,), (mask, click)))
    assert (alone.previous, alone.shapes.keys()) == (None, {"rough"})
    assert clicked.shapes.keys() == set()
    assert clicked.previous is not None
    assert np.array_equal(clicked.previous > 0.5, STAR)
    last = np.zeros(STAR.shape, np.float32)
    assert draw_on(canvas, PromptSet((mask, click)), last, None).previous is last, "what was answered since says more"


@pytest.mark.parametrize(("length", "is_heard"), [(15, True), (40, False)])
def test_colours_are_heard_as_long_as_they_leave_half_of_the_answer(length: int, is_heard: bool) -> None:
    """A sure yellow part and an unsure blue one: the colours say that the blue one is ground."""
    thing = rectangle(45, 50, 75, 70)
    claimed = thing | rectangle(45, 70, 75, 70 + length)
    logits = np.where(thing, 2.8, np.where(claimed, 0.2, -1.5)).astype(np.float32)
    after = sharpen(Answer(logits, 0.7), painted(thing), drawing())
    assert iou_of(after, thing if is_heard else claimed) > 0.95


def test_an_edge_beyond_the_drawn_box_is_not_taken() -> None:
    thing, found = rectangle(36, 56, 84, 104), rectangle(40, 60, 80, 100)
    before = Answer(np.where(found, 2.5, -0.3).astype(np.float32), 0.7)
    assert iou_of(sharpen(before, painted(thing), drawing()), thing) > 0.95, "the colours reach further than the answer"
    boxed = sharpen(before, painted(thing), drawing(BoxPrompt((60.0, 40.0, 100.0, 80.0))))
    assert iou_of(boxed, found) == 1


def test_the_stripes_of_a_large_thing_are_told_apart_where_the_decoder_sees_them_as_one() -> None:
    """Stripes of six pixels across 280: the decoder's view has a pixel for four of them, that of the outline for two."""
    rows, columns = np.mgrid[:400, :400]
    block = (abs(rows - 200) < 140) & (abs(columns - 200) < 140)
    thing = block & (columns // 6 % 2 == 0)
    pixels = np.where(thing[:, :, None], np.uint8([220, 200, 40]), np.uint8([40, 60, 160]))
    canvas = Canvas(ImageFeatures(Size(400, 400), torch.zeros(1, 1, 1)), pixels)
    before = Answer(np.where(thing, 0.6, np.where(block, 0.3, -2.5)).astype(np.float32), 0.7)
    assert iou_of(before, thing) < 0.51
    assert iou_of(sharpen(before, canvas, drawing()), thing) > 0.8


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
    upper, exact = matrix[..., (0, 0, 0, 1, 1, 2), (0, 1, 2, 1, 2, 2)], np.linalg.solve(matrix, wanted[..., None])[..., 0]
    found = solved(np.moveaxis(upper, -1, 0), np.moveaxis(wanted, -1, 0))
    assert np.moveaxis(found, 0, -1) == pytest.approx(exact, rel=1e-3, abs=1e-2)


def test_an_empty_answer_stays_empty(canvas: Canvas) -> None:
    nothing = blob(np.zeros_like(STAR))
    assert sharpen(nothing, canvas, drawing()) is nothing


@functools.cache
def engine() -> Engine:
    return build(None)


def iou(a: BoolArray, b: BoolArray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("height", "width", "least"), [(6000, 300, 0.95), (4000, 40, 0.85), (8000, 100, 0.85), (40, 4000, 0.85), (300, 6000, 0.95)]
)
def test_a_box_near_the_end_of_a_long_image_finds_the_disc_in_it(height: int, width: int, least: float) -> None:
    x, y = (0.92 * side if side == max(height, width) else 0.5 * side for side in (width, height))
    radius = 0.22 * min(height, width)
    picture = paint({"disc": (disc(height, width, x, y, radius), RED), "ground": (~disc(height, width, x, y, radius), BLUE)})
    (features,) = engine().decoder.encode_images([picture.image])
    box = PromptSet((BoxPrompt((x - radius, y - radius, x + radius, y + radius)),))
    with torch.inference_mode():
        found = engine().decoder.decode(features, box, engine().space.embed(box, features), None)
    assert iou(found.masks[0], picture.shapes["disc"]) > least
