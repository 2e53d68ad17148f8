"""A simulated annotator who clicks, and the effort that this saves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from backend.evaluation.metrics import Pair
from backend.segmenter import Segmenter
from backend.values.errors import MaskloomError
from backend.values.session import ForPrompts
from prompts.geometry import BoolArray
from prompts.kinds import Image, KeyedImage, PointPrompt, PromptSet
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
    mask, keyed = np.zeros_like(truth), KeyedImage.of(image)
    clicks: list[PointPrompt] = []
    reached: list[float] = []
    memory: ObjectMemory | None = None
    while len(clicks) < MOST_CLICKS and (not reached or reached[-1] < enough):
        clicks.append(next_click(mask, truth))
        (done,) = segmenter.segment([ForPrompts(keyed, PromptSet(tuple(clicks)), memory=memory)])
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


GOOD_ENOUGH_IOU = 0.85


@dataclass(frozen=True, slots=True)
class Assumptions:
    """Seconds for each thing that a person does. Drawing one mask by hand took COCO's annotators about 80 s (Lin et al.,
    Microsoft COCO, ECCV 2014); the others are guesses to be replaced by one's own.
    """

    draw_s: float = 80.0
    check_s: float = 4.0
    click_s: float = 3.0
    delete_s: float = 3.0

    @property
    def sentences(self) -> list[str]:
        return [
            f"A region drawn by hand takes {self.draw_s:g} s (COCO's annotators: about 80 s).",
            f"A predicted region with an IoU of at least {GOOD_ENOUGH_IOU} is looked at for {self.check_s:g} s and accepted.",
            f"Any other true region takes its clicks, {self.click_s:g} s each, and a look; drawn if none were simulated.",
            f"A predicted region that is not there is deleted in {self.delete_s:g} s.",
        ]


@dataclass(frozen=True, slots=True)
class Effort:
    """The hours by hand and with predictions, for the images that were compared."""

    by_hand_h: float
    with_predictions_h: float

    @property
    def factor(self) -> float:
        """How many times as fast."""
        return self.by_hand_h / self.with_predictions_h if self.with_predictions_h else 1.0


def estimate(pairs: Sequence[Pair], clicks: float | None, assumed: Assumptions) -> Effort:
    """The effort for matched pairs; ``clicks`` are the mean clicks of a region to IoU 0.85, None when not simulated."""
    true = [pair for pair in pairs if pair.true_row is not None]
    accepted = sum(pair.is_match and pair.iou >= GOOD_ENOUGH_IOU for pair in true)
    redo_s = assumed.draw_s if clicks is None else min(assumed.draw_s, clicks * assumed.click_s + assumed.check_s)
    false_alarms = len(pairs) - len(true)
    seconds = accepted * assumed.check_s + (len(true) - accepted) * redo_s + false_alarms * assumed.delete_s
    return Effort(len(true) * assumed.draw_s / 3600, seconds / 3600)
