"""How close masks are to the truth, and the effort that they save: overlaps, panoptic quality, thresholds, simulated clicks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from backend.labelstudio.shapes import DrawnRegion
from backend.segmenter import Segmenter
from backend.values.errors import MaskloomError
from backend.values.session import ForPrompts
from prompts.geometry import BoolArray
from prompts.kinds import Image, KeyedImage, ObjectMemory, PointPrompt, PromptSet

MATCH_IOU = 0.5
"""Above this a prediction and a true region are the same thing (Kirillov et al., Panoptic Segmentation, CVPR 2019)."""
BOUNDARY_SHARE = 0.008
"""How far an outline may be off, as a share of the image's diagonal (Perazzi et al., DAVIS, CVPR 2016)."""
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(20))


@dataclass(frozen=True, slots=True)
class Pair:
    """One region of one label: a match has both sides, a miss no ``score``, a false alarm no ``iou`` (0)."""

    label: str
    iou: float
    score: float | None
    boundary: float = 0.0
    true_row: int | None = None
    row: int | None = None

    @property
    def is_match(self) -> bool:
        return self.true_row is not None and self.row is not None


@dataclass(frozen=True, slots=True)
class Quality:
    """Panoptic quality and its factors, ``pq = sq * rq``; ``sq`` is the mean IoU and ``boundary`` the mean F of the matches."""

    matches: int
    misses: int
    false_alarms: int
    sq: float
    boundary: float

    @property
    def rq(self) -> float:
        weight = self.matches + self.misses / 2 + self.false_alarms / 2
        return self.matches / weight if weight else 0.0

    @property
    def pq(self) -> float:
        return self.sq * self.rq

    @property
    def precision(self) -> float:
        found = self.matches + self.false_alarms
        return self.matches / found if found else 0.0

    @property
    def recall(self) -> float:
        true = self.matches + self.misses
        return self.matches / true if true else 0.0


def match(truth: Sequence[DrawnRegion], predicted: Sequence[DrawnRegion], crowds: Sequence[DrawnRegion] = ()) -> list[Pair]:
    """Pair the regions of one image label by label, the best score first; each takes the true region that it covers best among
    those that are left, when their IoU is above 0.5. One without a match that lies by more than half of its pixels in a crowd
    of its label does not count (Kirillov et al., section 4.2).
    """
    pairs: list[Pair] = []
    for label in sorted({region.label for region in (*truth, *predicted)}):
        mine = [row for row, region in enumerate(truth) if region.label == label]
        theirs = [row for row, region in enumerate(predicted) if region.label == label]
        pairs += _match_label(truth, predicted, mine, theirs)
    return [pair for pair in pairs if pair.true_row is not None or not _lies_in_one(pair.row, predicted, crowds)]


def _lies_in_one(row: int | None, predicted: Sequence[DrawnRegion], crowds: Sequence[DrawnRegion]) -> bool:
    """Whether more than half of a predicted region lies in a crowd of its label."""
    if row is None:
        return False
    region = predicted[row]
    mine = [each.mask for each in crowds if each.label == region.label and each.mask.shape == region.mask.shape]
    return any((mask & region.mask).sum() > region.mask.sum() / 2 for mask in mine)


def _match_label(
    truth: Sequence[DrawnRegion], predicted: Sequence[DrawnRegion], mine: list[int], theirs: list[int]
) -> list[Pair]:
    label = (truth[mine[0]] if mine else predicted[theirs[0]]).label
    iou = ious([predicted[row].mask for row in theirs], [truth[row].mask for row in mine])
    left, pairs = set(range(len(mine))), []
    for place in sorted(range(len(theirs)), key=lambda k: -predicted[theirs[k]].score):
        row = theirs[place]
        best = max(left, key=lambda k: iou[place, k], default=None)
        if best is not None and iou[place, best] > MATCH_IOU:
            left.remove(best)
            boundary = boundary_f(predicted[row].mask, truth[mine[best]].mask)
            pairs.append(Pair(label, float(iou[place, best]), predicted[row].score, boundary, mine[best], row))
        else:
            pairs.append(Pair(label, 0.0, predicted[row].score, row=row))
    return pairs + [Pair(label, 0.0, None, true_row=mine[k]) for k in sorted(left)]


def ious(masks: Sequence[BoolArray], others: Sequence[BoolArray]) -> NDArray[np.float64]:
    """The IoU ``(N, M)`` of masks of one size."""
    if not masks or not others:
        return np.zeros((len(masks), len(others)))
    first, second = ([coco.encode(np.asfortranarray(mask, np.uint8)) for mask in each] for each in (masks, others))
    found: NDArray[np.float64] = np.asarray(coco.iou(first, second, [0] * len(second)), np.float64)
    return found


def boundary_f(mask: BoolArray, truth: BoolArray) -> float:
    """The boundary F measure of DAVIS: precision and recall of outline pixels within 0.8 % of the diagonal."""
    reach = max(1, round(BOUNDARY_SHARE * math.hypot(*mask.shape)))
    ball = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    outline, wanted = _outline(mask), _outline(truth)
    if not outline.any() or not wanted.any():
        return float(outline.any() == wanted.any())
    precision = (outline & (cv2.dilate(wanted.astype(np.uint8), ball) > 0)).sum() / outline.sum()
    recall = (wanted & (cv2.dilate(outline.astype(np.uint8), ball) > 0)).sum() / wanted.sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _outline(mask: BoolArray) -> BoolArray:
    """The pixels of a mask that touch another one's side."""
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    outline: BoolArray = mask & (inner == 0)
    return outline


def quality(pairs: Sequence[Pair]) -> Quality:
    """What pairs of any number of images add up to."""
    matched = [pair for pair in pairs if pair.is_match]
    misses = sum(pair.row is None for pair in pairs)
    sq = sum(pair.iou for pair in matched) / len(matched) if matched else 0.0
    boundary = sum(pair.boundary for pair in matched) / len(matched) if matched else 0.0
    return Quality(len(matched), misses, len(pairs) - len(matched) - misses, sq, boundary)


def at_threshold(pairs: Sequence[Pair], threshold: float) -> Quality:
    """The quality when only predictions with at least this score are kept: a match below it becomes a miss.

    Predictions are matched by descending score, so dropping the lower ones leaves the matches of the others as they are.
    """
    kept = [pair for pair in pairs if pair.score is None or pair.score >= threshold]
    lost = [
        Pair(pair.label, 0.0, None, true_row=pair.true_row)
        for pair in pairs
        if pair.is_match and pair.score is not None and pair.score < threshold
    ]
    return quality([*kept, *lost])


def best_threshold(pairs: Sequence[Pair]) -> tuple[float, float]:
    """The threshold with the best F1 of precision and recall, and that F1; the lowest of equals."""
    found = [(_f1(at_threshold(pairs, threshold)), threshold) for threshold in THRESHOLDS]
    f1, threshold = max(found, key=lambda each: (round(each[0], 6), -each[1]))
    return threshold, f1


def _f1(found: Quality) -> float:
    total = found.precision + found.recall
    return 2 * found.precision * found.recall / total if total else 0.0


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
