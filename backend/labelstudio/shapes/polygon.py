"""Polygons: a mask's parts as simple rings, and what is lost by that.

Label Studio's polygons are single rings. So every part with at least 5 % of the region's area becomes a polygon of its own and
smaller parts are dropped; a hole with at least 5 % of it is opened by a hair-thin slit, so that the ring runs around it, and
smaller holes are filled. Outlines run along the pixels' edges and are simplified by a tolerance of a pixel or 0.1 % of
the image's longer side, whichever is more, and further until the ring has at most 100 points. The IoU that is left is told.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from shapely import LineString, MultiPoint, MultiPolygon, Point, Polygon, make_valid
from shapely.geometry.base import BaseGeometry
from shapely.ops import nearest_points

from backend.labelstudio.shapes.base import FARTHEST_PERCENT, Json, Role, ShapeValue, area_prompt
from backend.values.errors import RequestError
from backend.values.masks import RunLengths
from prompts.geometry import BoolArray, FloatArray, Size, percent_to_pixels, pixels_to_percent, polygon_mask, size_of
from prompts.kinds import PolygonPrompt, Prompt

SMALLEST_SHARE = 0.05
MOST_POINTS = 100
MOST_OUTLINE_POINTS = 20_000
"""An outline with more corners is noise; its mask is closed (5 x 5) until it has fewer."""
TOLERANCE_PIXELS = 1.0
TOLERANCE_SHARE = 0.001
_SLIT_PIXELS = 0.01
_POINTS_PER_SLIT = 5

Contour = NDArray[Any]
Raster = NDArray[np.uint8]


def write(runs: RunLengths) -> list[ShapeValue]:
    """The parts of a mask ``(H, W)`` as closed rings in percent, largest first; nothing for an empty mask."""
    rings, note = rings_of(runs.decode())
    return [ShapeValue({"points": ring.tolist(), "closed": True}, note) for ring in rings]


def rings_of(mask: BoolArray) -> tuple[list[FloatArray], str]:
    """The parts of a mask ``(H, W)`` as rings ``(N, 2)`` in percent, largest first, and a note that tells what is lost."""
    if not mask.any():
        return [], ""
    size, tolerance = size_of(mask), max(TOLERANCE_PIXELS, TOLERANCE_SHARE * max(mask.shape))
    rings = [_ring(_simplify(part, tolerance)) for part in _parts(mask)]
    percents = [pixels_to_percent(np.clip(ring, 0, (size.width, size.height)), size) for ring in rings]
    drawn = np.logical_or.reduce([polygon_mask(percent_to_pixels(ring, size), size) for ring in percents])
    return percents, f"polygon IoU {(mask & drawn).sum() / (mask | drawn).sum():.3f}"


def read(value: Json, size: Size) -> BoolArray:
    """The mask ``(H, W)`` of a polygon. Raises RequestError when it has no three corners."""
    return polygon_mask(outline(value, size), size)


def prompt(value: Json, size: Size, role: Role) -> Prompt | None:
    """A polygon around the object is an outline of it; otherwise what it covers counts."""
    return PolygonPrompt(outline(value, size)) if role is Role.FOR else area_prompt(read(value, size), role)


def outline(value: Json, size: Size) -> FloatArray:
    """The corners ``(N, 2)`` of a polygon in pixels. Raises RequestError when there are no three."""
    try:
        points = np.asarray(value.get("points"), np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise RequestError("expected pairs of percents under a polygon's 'points'") from error
    if points.ndim != 2 or points.shape[0] < 3 or points.shape[1] != 2:
        raise RequestError("a polygon has no three points")
    if not (np.abs(points) <= FARTHEST_PERCENT).all():
        raise RequestError("expected percents under a polygon's 'points'")
    return percent_to_pixels(points, size)


def _parts(mask: BoolArray) -> list[Polygon]:
    """The parts of a mask that are large enough, with the holes that are large enough, largest part first."""
    smallest = SMALLEST_SHARE * float(mask.sum())
    clean = _without_small_holes(_without_small_parts(mask, smallest), smallest)
    contours, hierarchy = cv2.findContours(clean, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if sum(map(len, contours)) > MOST_OUTLINE_POINTS:
        return _parts(cv2.morphologyEx(clean, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)) > 0)
    parents = hierarchy[0, :, 3].tolist()
    parts = {index: _grown(contours[index]) for index, parent in enumerate(parents) if parent < 0}
    for contour, parent in zip(contours, parents, strict=True):
        if parent >= 0:
            parts[parent] = _largest(parts[parent].difference(_inside(contour).difference(_band(contour))))
    return sorted(parts.values(), key=lambda part: -part.area)


def _without_small_parts(mask: BoolArray, smallest: float) -> Raster:
    """The parts of at least ``smallest`` pixels or, when there is none, the largest one."""
    _, part_of, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    pixels = stats[:, cv2.CC_STAT_AREA]
    pixels[0] = 0
    kept: Raster = (pixels >= min(smallest, pixels.max())).astype(np.uint8)[part_of]
    return kept


def _without_small_holes(raster: Raster, smallest: float) -> Raster:
    """The same with all holes of fewer than ``smallest`` pixels filled; what touches the image's edge is no hole."""
    _, gap_of, stats, _ = cv2.connectedComponentsWithStats(1 - raster, connectivity=4)
    left, top, width, height, pixels = stats.T
    enclosed = (left > 0) & (top > 0) & (left + width < raster.shape[1]) & (top + height < raster.shape[0])
    solid = enclosed & (pixels < smallest)
    solid[0] = True
    filled: Raster = solid.astype(np.uint8)[gap_of]
    return filled


def _grown(contour: Contour) -> Polygon:
    """The area ``(N, 1, 2)`` on and inside a contour of pixels, with the pixels whole: OpenCV runs through their centres."""
    return Polygon(_largest(_inside(contour).union(_band(contour))).exterior)


def _inside(contour: Contour) -> BaseGeometry:
    return make_valid(Polygon(contour[:, 0] + 0.5), method="structure", keep_collapsed=False) if len(contour) > 2 else Polygon()


def _band(contour: Contour) -> BaseGeometry:
    """The pixels along a contour, whole where it turns back."""
    centres = contour[:, 0] + 0.5
    before, after = centres - np.roll(centres, 1, axis=0), np.roll(centres, -1, axis=0) - centres
    tips = MultiPoint(centres[(before * after).sum(axis=1) < 0] if len(centres) > 1 else centres)
    path = LineString(centres[[*range(len(centres)), 0]]) if len(centres) > 1 else Point(centres[0])
    return path.buffer(0.5, join_style="mitre", mitre_limit=1.5).union(tips.buffer(0.5, cap_style="square"))


def _simplify(part: Polygon, tolerance: float) -> Polygon:
    """A part with few enough points; while it has, the tolerance is at most half its mean thickness."""
    tolerance = min(tolerance, part.area / part.length)
    simple = part.simplify(tolerance)
    while len(simple.exterior.coords) + sum(len(hole.coords) + _POINTS_PER_SLIT for hole in simple.interiors) > MOST_POINTS:
        tolerance *= 1.5
        simple = part.simplify(tolerance)
    return simple


def _ring(part: Polygon) -> FloatArray:
    """The outline ``(N, 2)`` of a part, each hole opened by a slit along the shortest way out; the first point comes once."""
    while part.interiors:
        way_out = LineString(nearest_points(part.exterior, part.interiors[0]))
        part = _largest(part.difference(way_out.buffer(_SLIT_PIXELS, cap_style="square")))
    return np.asarray(part.exterior.coords[:-1], np.float64)


def _largest(area: BaseGeometry) -> Polygon:
    pieces = area.geoms if isinstance(area, MultiPolygon) else [area]
    return max((piece for piece in pieces if isinstance(piece, Polygon)), key=lambda piece: piece.area)
