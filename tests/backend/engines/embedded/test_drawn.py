"""What a drawing may mean: which reading is trusted, and what one click is answered with at several scales."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backend.engines.base import OffersAlternatives
from backend.engines.embedded import build
from backend.engines.embedded import from_drawing as drawn
from backend.engines.embedded.engine import Checkpoint, EmbeddedDecoder
from backend.engines.embedded.from_drawing import decode_object, draw_on
from backend.engines.embedded.from_text import Calibration
from backend.engines.embedded.network import ViewDecoder
from backend.engines.embedded.views import Canvas
from backend.values.features import ImageFeatures
from backend.values.masks import Masks, overlaps
from prompts.geometry import Size
from prompts.kinds import BoxPrompt, PointPrompt, Prompt, PromptSet
from tests.backend.pictures import BLUE, RED, disc, paint, square

PICTURE = paint({"disc": (disc(240, 320, 80, 120, 50), RED), "square": (square(240, 320, 190, 70, 90), BLUE)})


class Judging(ViewDecoder):
    """Finds the middle half of every view, and judges the views of each call as it is told."""

    def __init__(self, *judged: list[float]) -> None:
        super().__init__()
        self._judged = list(judged)

    def forward(self, image: Tensor, maps: Tensor, grid: Tensor | None, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        middle = torch.full((len(image), 96, 96), -4.0)
        middle[:, 24:72, 24:72] = 4
        return middle, torch.tensor(self._judged.pop(0))


class Filling(ViewDecoder):
    """Finds the whole of every view."""

    def forward(self, image: Tensor, maps: Tensor, grid: Tensor | None) -> tuple[Tensor, Tensor]:
        return torch.full((len(image), 96, 96), 4.0), torch.zeros(len(image))


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
    canvas = Canvas(ImageFeatures(Size(640, 640), torch.zeros(4, 8, 8)), np.zeros((640, 640, 3), np.uint8))
    found = decode_object(Filling(), canvas, draw_on(canvas, PromptSet((BoxPrompt(BOX), *clicks)), None, None))
    assert found is not None
    x0, y0, x1, y1 = found.box() or (0, 0, 0, 0)
    reached = max(BOX[0] - x0, BOX[1] - y0, x1 - BOX[2], y1 - BOX[3])
    assert (reached <= 6) == stays, "a box and a little more"
    assert reached >= (2 if stays else 40)


@pytest.mark.parametrize(("judged", "side"), [([2.0, 1.0, 0.0], 320), ([0.0, 2.0, 1.0], 160), ([0.0, 1.0, 2.0], 80)])
def test_of_the_looks_at_three_scales_only_the_one_that_was_judged_best_is_followed(judged: list[float], side: int) -> None:
    canvas = Canvas(ImageFeatures(Size(640, 640), torch.zeros(4, 8, 8)), np.zeros((640, 640, 3), np.uint8))
    looking = Judging(judged, [0.5])
    found = decode_object(looking, canvas, draw_on(canvas, PromptSet((PointPrompt((320, 320)),)), None, None))
    assert found is not None
    box = found.box()
    assert box is not None
    assert box[2] - box[0] == pytest.approx(side * drawn.MARGIN / 2, abs=3), "the middle half of the window around it"
    assert found.quality == pytest.approx(float(torch.sigmoid(torch.tensor(0.5))))


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
    canvas = ImageFeatures(Size(640, 640), torch.zeros(4, 8, 8), {"pixels": torch.zeros(640, 640, 3, dtype=torch.uint8)})
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
