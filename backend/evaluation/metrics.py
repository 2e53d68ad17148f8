"""How close masks are to the truth: IoU, boundary F, panoptic quality, and precision and recall over thresholds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from backend.labelstudio.shapes import DrawnRegion
from prompts.geometry import BoolArray

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
