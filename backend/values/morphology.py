"""Morphology: what can be done to a mask's outline, holes and parts, exact to the pixel.

Of masks that are kept as runs only the box around them is worked on, however large the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from backend.values.masks import RunLengths
from prompts.geometry import BoolArray

_STRIP_PIXELS = 1 << 21


def fill_holes(mask: BoolArray) -> BoolArray:
    """A mask ``(H, W)`` with everything that it encloses: what cannot be reached from the image's edge, side by side."""
    padded = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    _, gap_of = cv2.connectedComponents(padded, connectivity=4)
    filled: BoolArray = (gap_of != gap_of[0, 0])[1:-1, 1:-1]
    return filled


def grow(mask: BoolArray, pixels: float) -> BoolArray:
    """Every pixel ``(H, W)`` whose centre is at most so many pixels from the centre of one of the mask."""
    return _in_strips(mask, _reach(pixels), lambda strip: _grown(strip, pixels))


def shrink(mask: BoolArray, pixels: float) -> BoolArray:
    """Every pixel ``(H, W)`` of the mask that is farther than so many pixels from all outside it; the image's edge is no
    outside.
    """
    return _in_strips(mask, _reach(pixels), lambda strip: _shrunk(strip, pixels))


def smooth(mask: BoolArray, pixels: float) -> BoolArray:
    """A mask ``(H, W)`` opened and then closed by a disc of so many pixels (Serra, "Image Analysis and Mathematical
    Morphology", 1982); one that would vanish stays as it is.
    """
    room = 2 * _reach(pixels)
    opened = _in_strips(mask, room, lambda strip: _grown(_shrunk(strip, pixels), pixels) & strip)
    if not opened.any():
        return mask
    return _in_strips(opened, room, lambda strip: _shrunk(_grown(strip, pixels), pixels) | strip)


def _reach(pixels: float) -> int:
    return math.ceil(pixels) + 1


def _in_strips(mask: BoolArray, room: int, change: Callable[[BoolArray], BoolArray]) -> BoolArray:
    """A mask after a change for which so many rows around matter, some rows at a time: distances take four bytes a pixel."""
    changed, rows = np.empty(mask.shape, np.bool_), max(_STRIP_PIXELS // max(1, mask.shape[1]), 4 * room)
    for first in range(0, len(mask), rows):
        top = max(0, first - room)
        changed[first : first + rows] = change(mask[top : first + rows + room])[first - top : first - top + rows]
    return changed


def _grown(mask: BoolArray, pixels: float) -> BoolArray:
    return ~_shrunk(~mask, pixels)


def _shrunk(mask: BoolArray, pixels: float) -> BoolArray:
    """Where the nearest pixel that is not of the mask is farther; nowhere is one that the array does not hold."""
    return mask if mask.all() else np.asarray(_distance(mask) > pixels)


def in_its_box(runs: RunLengths, room: int, change: Callable[[BoolArray], BoolArray]) -> RunLengths:
    """A mask after a change that reaches no farther than ``room`` pixels from it, at least one."""
    corner, mask = runs.with_room(room)
    return RunLengths.placed(change(mask), corner, runs.size) if runs.area else runs


def smooth_runs(runs: RunLengths, pixels: float) -> RunLengths:
    """A mask smoothed by so many pixels."""
    return in_its_box(runs, int(pixels) + 2, lambda mask: smooth(mask, pixels))


def parts_of(runs: RunLengths) -> list[RunLengths]:
    """The parts of a mask, the largest first, of equal ones the upper one; pixels that touch at a corner belong together."""
    (rows, columns), window = runs.window()
    if not window.size:
        return []
    _, part_of, boxes, _ = cv2.connectedComponentsWithStats(window.astype(np.uint8), connectivity=8)
    numbers = [int(number) for number in np.argsort(-boxes[1:, cv2.CC_STAT_AREA], kind="stable") + 1]
    found = []
    for number in numbers:
        x, y, width, height = boxes[number, :4].tolist()
        part: BoolArray = part_of[y : y + height, x : x + width] == number
        found.append(RunLengths.placed(part, (columns.start + x, rows.start + y), runs.size))
    return found


def without(runs: RunLengths, others: Sequence[RunLengths]) -> RunLengths:
    """A mask without what other masks of the image cover."""
    (rows, columns), left = runs.window()
    for (down, across), other in (each.window() for each in others if _meet(runs, each)):
        top, bottom = max(rows.start, down.start), min(rows.stop, down.stop)
        first, last = max(columns.start, across.start), min(columns.stop, across.stop)
        here = np.s_[top - rows.start : bottom - rows.start, first - columns.start : last - columns.start]
        left[here] &= ~other[top - down.start : bottom - down.start, first - across.start : last - across.start]
    return RunLengths.placed(left, (columns.start, rows.start), runs.size)


def _meet(one: RunLengths, other: RunLengths) -> bool:
    """Whether the boxes of two masks overlap."""
    (a, b), (c, d) = ((box[:2], box[2:]) if (box := each.box) else ((0, 0), (0, 0)) for each in (one, other))
    return all(max(low, far) < min(high, end) for low, high, far, end in zip(a, b, c, d, strict=True))


def _distance(mask: BoolArray) -> NDArray[np.float32]:
    """The distance of each pixel's centre to that of the nearest pixel outside the mask, exact to float32."""
    distance: NDArray[np.float32] = np.asarray(
        cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32
    )
    return np.round(distance, 3, out=distance)
