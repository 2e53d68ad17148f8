"""What a drawing may mean: which reading is trusted, and what one click is answered with at several scales."""

from __future__ import annotations

import numpy as np
import torch

from backend.decoders.base import OffersAlternatives
from backend.decoders.embedded import build
from backend.decoders.embedded.answers import Answer
from backend.decoders.embedded.drawn import by_trust
from backend.masks import overlaps
from prompts.geometry import BoolArray
from prompts.kinds import PointPrompt, PromptSet
from tests.backend.pictures import BLUE, RED, disc, paint, square

PICTURE = paint({"disc": (disc(240, 320, 80, 120, 50), RED), "square": (square(240, 320, 190, 70, 90), BLUE)})


def answer(mask: BoolArray, quality: float) -> Answer:
    return Answer(np.where(mask, 4, -4).astype(np.float32), quality)


def test_the_reading_that_was_judged_best_at_both_looks_is_trusted() -> None:
    small, middle, large = (
        answer(disc(200, 200, 100, 100, radius), quality) for radius, quality in ((9, 0.5), (30, 0.9), (60, 0.7))
    )
    readings = [small, middle, large]
    assert by_trust(readings, readings) == [middle, large, small]


def test_a_reading_that_was_doubted_at_the_first_look_is_trusted_less() -> None:
    mask = disc(200, 200, 100, 100, 60)
    doubted, other = answer(mask, 0.7), answer(mask, 0.6)
    assert by_trust([answer(mask, 0.3), answer(mask, 0.8)], [doubted, other])[0] is other


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
    best = max(float(overlaps(np.stack([mask, shape]))[0][0, 1]) for mask in readings.masks)
    assert best > 0.8
