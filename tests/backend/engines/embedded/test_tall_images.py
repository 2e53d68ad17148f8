"""Images far longer than wide, or wider than long: what is drawn on them is answered where it was drawn.

Both sides are made smaller before the network looks, each rounded to whole pixels by itself: on 40 x 4000 pixels a factor that
is right for one side was a hundred pixels off on the other.
"""

from __future__ import annotations

import functools

import pytest
import torch

from backend.engines.base import Engine
from backend.engines.embedded import build
from prompts.geometry import BoolArray
from prompts.kinds import BoxPrompt, PromptSet
from tests.backend.pictures import BLUE, RED, disc, paint


@functools.cache
def engine() -> Engine:
    return build(None)


def iou(a: BoolArray, b: BoolArray) -> float:
    return float((a & b).sum() / (a | b).sum())


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
