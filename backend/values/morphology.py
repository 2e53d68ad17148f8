"""Morphology: what can be done to a mask's outline, holes and parts, exact to the pixel."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from backend.values.masks import RunLengths
from prompts.geometry import BoolArray


def fill_holes(mask: BoolArray) -> BoolArray:
    """A mask ``(H, W)`` with everything that it encloses: what cannot be reached from the image's edge, side by side."""
    padded = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    _, gap_of = cv2.connectedComponents(padded, connectivity=4)
    filled: BoolArray = (gap_of != gap_of[0, 0])[1:-1, 1:-1]
    return filled


def grow(mask: BoolArray, pixels: float) -> BoolArray:
    """Every pixel ``(H, W)`` whose centre is at most so many pixels from the centre of one of the mask."""
    near: BoolArray = _distance(~mask) <= pixels
    return near if mask.any() else mask


def shrink(mask: BoolArray, pixels: float) -> BoolArray:
    """Every pixel ``(H, W)`` of the mask that is farther than so many pixels from all outside it; the image's edge is no
    outside.
    """
    far: BoolArray = _distance(mask) > pixels
    return far if not mask.all() else mask


def smooth(mask: BoolArray, pixels: float) -> BoolArray:
    """A mask ``(H, W)`` opened and then closed by a disc of so many pixels (Serra, "Image Analysis and Mathematical
    Morphology", 1982); one that would vanish stays as it is.
    """
    opened = grow(shrink(mask, pixels), pixels) & mask
    return shrink(grow(opened, pixels), pixels) | opened if opened.any() else mask


def smooth_runs(runs: RunLengths, pixels: int) -> RunLengths:
    """A mask that is kept as runs, smoothed by so many pixels; only the box around it is worked on."""
    if not runs.area:
        return runs
    (rows, columns), window = runs.window()
    height, width, room = runs.size.height, runs.size.width, pixels + 1
    above, left = min(room, rows.start), min(room, columns.start)
    below, right = min(room, height - rows.stop), min(room, width - columns.stop)
    padded = np.pad(window, ((above, below), (left, right)))
    return RunLengths.placed(smooth(padded, pixels), (columns.start - left, rows.start - above), runs.size)


def largest_part(mask: BoolArray) -> BoolArray:
    """The largest of a mask's parts ``(H, W)``; of equal ones the first."""
    return next(iter(sorted(parts_of(mask), key=lambda part: -part.sum())), mask)


def parts_of(mask: BoolArray) -> list[BoolArray]:
    """The parts ``(H, W)`` of a mask; pixels that touch at a corner belong together."""
    count, part_of = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return [part_of == number for number in range(1, count)]


def _distance(mask: BoolArray) -> NDArray[np.float32]:
    """The distance of each pixel's centre to that of the nearest pixel outside the mask, exact to float32."""
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.round(distance, 3).astype(np.float32)
