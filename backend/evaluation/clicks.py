"""How many clicks a region takes: a simulated annotator clicks into the largest error until the mask is good enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from backend.segmenter import Question, Segmenter
from backend.values.errors import MaskloomError
from prompts.geometry import BoolArray
from prompts.kinds import Image, PointPrompt, PromptSet
from prompts.memory import ObjectMemory

MOST_CLICKS = 20
"""As in the literature, a region that is never good enough counts as 20 clicks (Sofiiuk et al., RITM, ICIP 2022)."""


@dataclass(frozen=True, slots=True)
class Clicked:
    """The IoU of one region after each click."""

    ious: Sequence[float]

    def needed(self, iou: float) -> int:
        """The clicks until an IoU; 20 when it was never reached."""
        return next((number for number, reached in enumerate(self.ious, start=1) if reached >= iou), MOST_CLICKS)


def simulate(segmenter: Segmenter, image: Image, truth: BoolArray, enough: float) -> Clicked:
    """Click a region ``(H, W)`` of an image until ``enough`` IoU or 20 clicks; each round remembers the last one."""
    mask = np.zeros_like(truth)
    clicks: list[PointPrompt] = []
    reached: list[float] = []
    memory: ObjectMemory | None = None
    while len(clicks) < MOST_CLICKS and (not reached or reached[-1] < enough):
        clicks.append(next_click(mask, truth))
        (done,) = segmenter.segment([Question(image, PromptSet(tuple(clicks)), memory=memory)])
        if isinstance(done, MaskloomError):
            raise done
        mask = done.masks.masks[0] if len(done.masks) else np.zeros_like(truth)
        memory = ObjectMemory(done.masks.low_res_logits[0], segmenter.engine.version) if len(done.masks) == 1 else None
        reached.append(float((mask & truth).sum() / max(1, (mask | truth).sum())))
    return Clicked(reached)


def next_click(mask: BoolArray, truth: BoolArray) -> PointPrompt:
    """A click into the middle of the largest error: positive where the mask lacks something, negative where it has too much."""
    deepest = {positive: _deepest(error) for positive, error in ((True, truth & ~mask), (False, mask & ~truth))}
    positive = deepest[True][0] >= deepest[False][0]
    _, row, column = deepest[positive]
    return PointPrompt((column + 0.5, row + 0.5), positive)


def _deepest(error: BoolArray) -> tuple[float, int, int]:
    """How far inside an error its innermost pixel lies, and where."""
    depth = cv2.distanceTransform(np.pad(error, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(depth[row, column]), int(row), int(column)
