"""The measures: overlap with a void, the next click, boundary accuracy, presence, and how honest a score is."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from prompts.geometry import BoolArray

XY = tuple[float, float]


def iou(answer: BoolArray, truth: BoolArray, void: BoolArray) -> float:
    """Intersection over union outside the void; 1 where both are empty."""
    either = ((answer | truth) & ~void).sum()
    return float((answer & truth & ~void).sum() / either) if either else 1.0


def next_click(answer: BoolArray, truth: BoolArray, void: BoolArray) -> tuple[XY, bool] | None:
    """The deepest point of the largest connected error, in pixels, and whether it is a positive click; None if there is none.

    The protocol of the interactive segmentation literature (Sofiiuk et al. 2022, "Reviving Iterative Training with Mask
    Guidance for Interactive Segmentation").
    """
    wrong = (answer != truth) & ~void
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(wrong.astype(np.uint8), connectivity=4)
    if count < 2:
        return None
    piece = pieces == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    depth = cv2.distanceTransform(np.pad(piece.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return (float(column) + 0.5, float(row) + 0.5), bool(truth[row, column])


def clicks_needed(ious: Sequence[float], wanted: float, cap: int = 20) -> int:
    """The number of clicks after which the IoU is first at least ``wanted``; the cap where it never is."""
    return next((k + 1 for k, value in enumerate(ious[:cap]) if value >= wanted), cap)


def boundary_f(answer: BoolArray, truth: BoolArray) -> float:
    """The boundary measure F of DAVIS (Perazzi et al. 2016): precision and recall of outlines within 0.8 % of the diagonal."""
    reach = max(1, round(0.008 * float(np.hypot(*truth.shape))))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2)
    mine, theirs = _outline(answer), _outline(truth)
    if not mine.any() or not theirs.any():
        return float(not mine.any() and not theirs.any())
    precision = (mine & (cv2.dilate(theirs.astype(np.uint8), disk) > 0)).sum() / mine.sum()
    recall = (theirs & (cv2.dilate(mine.astype(np.uint8), disk) > 0)).sum() / theirs.sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _outline(mask: BoolArray) -> BoolArray:
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderType=cv2.BORDER_REPLICATE)
    outline: BoolArray = mask & (inner == 0)
    return outline


def f1(found: int, invented: int, missed: int) -> float:
    """The harmonic mean of precision and recall."""
    return 2 * found / (2 * found + invented + missed) if found else 0.0


def reliability(scores: NDArray[np.float64], reached: NDArray[np.float64], bins: int = 10) -> list[tuple[float, float, int]]:
    """For equal bins of the score: the mean score, the mean IoU that was reached, and how many."""
    number = np.clip((scores * bins).astype(int), 0, bins - 1)
    filled = [number == k for k in range(bins) if (number == k).any()]
    return [(float(scores[some].mean()), float(reached[some].mean()), int(some.sum())) for some in filled]
