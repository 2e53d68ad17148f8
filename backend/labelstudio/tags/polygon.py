"""Polygons: a mask's parts as simple rings, and what is lost by that.

Label Studio's polygons are single rings without holes. So: holes are filled; every part with at least 5 % of the region's
area becomes a polygon of its own and smaller parts are dropped; a ring is simplified by a tolerance of a pixel or of 0.1 %
of the image's longer side, whichever is more, and further until it has at most 100 points. The IoU that is left is told.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from shapely import LineString, Point, Polygon, make_valid

from backend.labelstudio.tags import Shape
from prompts.geometry import BoolArray, FloatArray, pixels_to_percent, polygon_mask, size_of

SMALLEST_PART = 0.05
MOST_POINTS = 100
TOLERANCE_PIXELS = 1.0
TOLERANCE_SHARE = 0.001


def write(mask: BoolArray) -> list[Shape]:
    """The parts of a mask ``(H, W)`` as closed rings, largest first; nothing for an empty mask."""
    size = size_of(mask)
    rings = [_ring(part, mask) for part in _parts(mask)]
    if not rings:
        return []
    drawn = np.logical_or.reduce([polygon_mask(ring, size) for ring in rings])
    note = f"polygon IoU {(mask & drawn).sum() / (mask | drawn).sum():.3f}"
    return [Shape({"points": pixels_to_percent(ring, size).tolist(), "closed": True}, note) for ring in rings]


def _parts(mask: BoolArray) -> list[Polygon]:
    """The filled outlines of the parts that are large enough, largest first."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    parts = sorted((_filled(contour[:, 0]) for contour in contours), key=lambda part: -part.area)
    return [part for part in parts if part.area >= SMALLEST_PART * mask.sum()]


def _filled(contour: NDArray[Any]) -> Polygon:
    """The area inside a contour ``(N, 2)`` of pixels, all of its pixels included: OpenCV runs through their centres."""
    centres = contour + 0.5
    path = LineString([*centres, centres[0]]) if len(centres) > 1 else Point(centres[0])
    area = path.buffer(0.5, cap_style="square", join_style="mitre")
    if len(centres) > 2:
        area |= make_valid(Polygon(centres))
    largest = max(getattr(area, "geoms", [area]), key=lambda piece: piece.area)
    return Polygon(largest.exterior)


def _ring(part: Polygon, mask: BoolArray) -> FloatArray:
    """A part's outline ``(N, 2)`` in pixels, simplified and inside the image; the first point is not repeated."""
    tolerance = max(TOLERANCE_PIXELS, TOLERANCE_SHARE * max(mask.shape))
    simple = part.simplify(tolerance if part.area > 4 * tolerance**2 else 0)
    while len(simple.exterior.coords) > MOST_POINTS + 1:
        tolerance *= 1.5
        simple = part.simplify(tolerance)
    height, width = mask.shape
    return np.clip(np.asarray(simple.exterior.coords[:-1], np.float64), 0, (width, height))
