"""What can be had without any learning: the filled box, a disk at the click, a rectangle in the middle, and GrabCut."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from bench.quality.measures import XY
from prompts.geometry import BoolArray, Size, box_mask
from prompts.kinds import Image

Box = tuple[float, float, float, float]


def disk(xy: XY, size: Size, share: float = 0.15) -> BoolArray:
    """A disk at a click whose diameter is a share of the image's width."""
    down, across = np.mgrid[0 : size.height, 0 : size.width] + 0.5
    inside: BoolArray = np.hypot(across - xy[0], down - xy[1]) <= share * size.width / 2
    return inside


def middle(size: Size, share: float) -> BoolArray:
    """The rectangle in the middle whose sides are a share of the image's."""
    across, down = size.width * share / 2, size.height * share / 2
    x, y = size.width / 2, size.height / 2
    return box_mask((x - across, y - down, x + across, y + down), size)


def grabcut_box(image: Image, xyxy: Box) -> BoolArray:
    """``cv2.grabCut`` from a box, five iterations."""
    labels = np.full(image.shape[:2], cv2.GC_BGD, np.uint8)
    labels[box_mask(xyxy, Size(*image.shape[:2]))] = cv2.GC_PR_FGD
    return _grabcut(image, labels)


def grabcut_clicks(image: Image, clicks: Sequence[tuple[XY, bool]], before: BoolArray | None) -> BoolArray:
    """``cv2.grabCut`` from clicks, each a small disk of certain labels, and from the previous answer."""
    size = Size(*image.shape[:2])
    likely = disk(clicks[0][0], size) if before is None else before
    labels = np.where(likely, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    for xy, positive in clicks:
        labels[disk(xy, size, 0.03)] = cv2.GC_FGD if positive else cv2.GC_BGD
    return _grabcut(image, labels)


def _grabcut(image: Image, labels: np.ndarray) -> BoolArray:
    foreground = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if foreground.all() or not foreground.any():
        return foreground
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(np.ascontiguousarray(image[:, :, ::-1]), labels, None, *models, 5, cv2.GC_INIT_WITH_MASK)
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))


def grabcut_mask(image: Image, before: BoolArray) -> BoolArray:
    """``cv2.grabCut`` from the mask of the frame before: its core is certain, its surroundings are open."""
    wide = np.ones((15, 15), np.uint8)
    grown, core = cv2.dilate(before.astype(np.uint8), wide) > 0, cv2.erode(before.astype(np.uint8), wide) > 0
    labels = np.where(grown, np.where(before, cv2.GC_PR_FGD, cv2.GC_PR_BGD), cv2.GC_BGD).astype(np.uint8)
    labels[core] = cv2.GC_FGD
    return _grabcut(image, labels)
