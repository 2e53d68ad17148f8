"""Outlined regions: polygons, ellipses and vectors, and what a mask loses when it becomes one.

Label Studio's polygons are single rings. So every part with at least 5 % of the region's area becomes a polygon of its own and
smaller parts are dropped; a hole with at least 5 % of it is opened by a hair-thin slit, so that the ring runs around it, and
smaller holes are filled. Outlines run along the pixels' edges and are simplified by a tolerance of a pixel or 0.1 % of
the image's longer side, whichever is more (but of a small part by no more than a twentieth of its side), and further until the
ring has at most 100 points. The IoU that is left is told. Only the box around a mask is worked on, however large the image.

A mask's ellipse is the one with its area, centre and axes. A vector is a path of vertices, straight or curved; a closed one
surrounds what it marks, an open one only runs over it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from shapely import LineString, MultiPoint, MultiPolygon, Point, Polygon, make_valid
from shapely.geometry.base import BaseGeometry
from shapely.ops import nearest_points

from backend.labelstudio.shapes.base import FARTHEST_PERCENT, Json, ShapeValue, mappings, read_number
from backend.labelstudio.tags import Role
from backend.values.errors import RequestError
from backend.values.masks import RunLengths
from prompts.geometry import (
    BoolArray,
    FloatArray,
    Size,
    ellipse_outline,
    percent_to_pixels,
    pixels_to_percent,
    polygon_mask,
    size_of,
    stroke_mask,
)
from prompts.kinds import PolygonPrompt, Prompt

SMALLEST_SHARE = 0.05
MOST_POINTS = 100
MOST_CORNERS = 100_000
"""Of a polygon that is read."""
MOST_OUTLINE_POINTS = 20_000
"""An outline with more corners is noise; its mask is closed (5 x 5) until it has fewer."""
TOLERANCE_PIXELS = 1.0
TOLERANCE_SHARE = 0.001
TOLERANCE_OF_PART = 0.05
"""Of the side of a square as large as the part."""
_ROOM = 8
"""Pixels around a mask that are looked at with it."""
_SLIT_PIXELS = 0.01
_POINTS_PER_SLIT = 5

Contour = NDArray[Any]
Raster = NDArray[np.uint8]


def write_polygon(runs: RunLengths, most_points: int = MOST_POINTS) -> list[ShapeValue]:
    """The parts of a mask ``(H, W)`` as closed rings in percent, largest first; nothing for an empty mask."""
    rings, note = rings_of(runs, most_points)
    return [ShapeValue({"points": ring.tolist(), "closed": True}, note) for ring in rings]


def rings_of(runs: RunLengths, most_points: int = MOST_POINTS) -> tuple[list[FloatArray], str]:
    """The parts of a mask as rings ``(N, 2)`` in percent, largest first, and a note that tells what is lost."""
    if not runs.area:
        return [], ""
    size, tolerance = runs.size, max(TOLERANCE_PIXELS, TOLERANCE_SHARE * max(runs.size.height, runs.size.width))
    corner, mask = runs.with_room(_ROOM)
    rings = [_ring(_simplify(part, tolerance, most_points)) for part in _parts(mask)]
    percents = [pixels_to_percent(np.clip(ring + corner, 0, (size.width, size.height)), size) for ring in rings]
    drawn = np.logical_or.reduce([polygon_mask(percent_to_pixels(ring, size) - corner, size_of(mask)) for ring in percents])
    return percents, f"polygon IoU {(mask & drawn).sum() / (mask | drawn).sum():.3f}"


def read_polygon(value: Json, size: Size) -> BoolArray:
    """The mask ``(H, W)`` of a polygon. Raises RequestError when it has no three corners."""
    return polygon_mask(outline_polygon(value, size), size)


def prompt_polygon(value: Json, size: Size, role: Role) -> Prompt | BoolArray:
    """A polygon around the object is an outline of it; otherwise what it covers counts."""
    return PolygonPrompt(outline_polygon(value, size)) if role is Role.FOR else read_polygon(value, size)


def outline_polygon(value: Json, size: Size) -> FloatArray:
    """The corners ``(N, 2)`` of a polygon in pixels. Raises RequestError when there are no three."""
    try:
        points = np.asarray(value.get("points"), np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise RequestError("expected pairs of percents under a polygon's 'points'") from error
    if points.ndim != 2 or points.shape[0] < 3 or points.shape[1] != 2:
        raise RequestError("a polygon has no three points")
    if len(points) > MOST_CORNERS:
        raise RequestError(f"a polygon has {len(points):,} points, more than {MOST_CORNERS:,}")
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


def _simplify(part: Polygon, tolerance: float, most_points: int) -> Polygon:
    """A part with few enough points; while it has, the tolerance is at most half its mean thickness. Where even the simplest
    outlines have too many, the smallest holes are filled.
    """
    tolerance = min(tolerance, part.area / part.length, max(TOLERANCE_PIXELS, TOLERANCE_OF_PART * math.sqrt(part.area)))
    simple = part.simplify(tolerance)
    while _points(simple) > most_points:
        tolerance *= 1.5
        if tolerance > part.length:
            if not part.interiors:
                break
            holes = sorted(part.interiors, key=lambda hole: -Polygon(hole).area)
            part, tolerance = Polygon(part.exterior, holes[:-1]), part.area / part.length
        simple = part.simplify(tolerance)
    return simple


def _points(part: Polygon) -> int:
    """How many points its ring will have."""
    return len(part.exterior.coords) - 1 + sum(len(hole.coords) - 1 + _POINTS_PER_SLIT for hole in part.interiors)


def _ring(part: Polygon) -> FloatArray:
    """The outline ``(N, 2)`` of a part, each hole opened by a slit along the shortest way out; the first point comes once."""
    while part.interiors:
        way_out = LineString(nearest_points(part.exterior, part.interiors[0]))
        part = _largest(part.difference(way_out.buffer(_SLIT_PIXELS, cap_style="square")))
    return np.asarray(part.exterior.coords[:-1], np.float64)


def _largest(area: BaseGeometry) -> Polygon:
    pieces = area.geoms if isinstance(area, MultiPolygon) else [area]
    return max((piece for piece in pieces if isinstance(piece, Polygon)), key=lambda piece: piece.area)


LARGEST_RADIUS = 50.0
_PIXEL_VARIANCE = 1 / 12
"""A pixel is a square, not a point: this is its own variance along each axis."""


def write_ellipse(runs: RunLengths) -> list[ShapeValue]:
    """The ellipse with the same centre and second moments as a mask ``(H, W)``; nothing for an empty mask.

    A uniform ellipse has the variance r^2 / 4 along an axis of radius r. Radii are percent of the width and the height of
    the image and, as the format has it, at most 50; to stay below that ``radiusX`` belongs to the axis nearer to the
    horizontal. The rotation is in degrees clockwise.
    """
    (down, across), window = runs.window()
    rows, columns = np.nonzero(window)
    if not rows.size:
        return []
    points = np.stack([columns + across.start, rows + down.start]).astype(np.float64) + 0.5
    centre = points.mean(axis=1)
    spread = (points - centre[:, None]) @ (points - centre[:, None]).T / rows.size + _PIXEL_VARIANCE * np.eye(2)
    variances, axes = np.linalg.eigh(spread)
    flat = int(np.abs(axes[0]).argmax())
    radii, size = 2 * np.sqrt(variances), runs.size
    value = {
        "x": float(centre[0]) * 100 / size.width,
        "y": float(centre[1]) * 100 / size.height,
        "radiusX": min(float(radii[flat]) * 100 / size.width, LARGEST_RADIUS),
        "radiusY": min(float(radii[1 - flat]) * 100 / size.height, LARGEST_RADIUS),
        "rotation": math.degrees(math.atan2(axes[1, flat], axes[0, flat])) % 180,
    }
    return [ShapeValue(value)]


def read_ellipse(value: Json, size: Size) -> BoolArray:
    """The mask ``(H, W)`` of an ellipse. Raises RequestError when it has no usable coordinates."""
    return polygon_mask(outline_ellipse(value, size), size)


def prompt_ellipse(value: Json, size: Size, role: Role) -> Prompt | BoolArray:
    """An ellipse around the object is an outline of it; otherwise what it covers counts."""
    return PolygonPrompt(outline_ellipse(value, size)) if role is Role.FOR else read_ellipse(value, size)


def outline_ellipse(value: Json, size: Size) -> FloatArray:
    """Its outline ``(N, 2)`` in pixels. Raises RequestError when it has no usable coordinates."""
    x, y, radius_x, radius_y = (read_number(value, key) for key in ("x", "y", "radiusX", "radiusY"))
    across, down = size.width / 100, size.height / 100
    degrees = read_number(value, "rotation", 0.0)
    return ellipse_outline(x * across, y * down, radius_x * across, radius_y * down, degrees)


MOST_VERTICES = 10_000
LINE_PERCENT = 1.0
"""An open path that prompts is a stroke of this share of the image's width."""
_PULL = 0.3
"""Where only one end of a curve has a control point, the page puts the other at this share of the straight way."""
_CURVE_STEPS = 16


def write_vector(runs: RunLengths, most_points: int = MOST_POINTS) -> list[ShapeValue]:
    """The parts of a mask ``(H, W)`` as closed paths of straight lines, as polygons are; nothing for an empty mask."""
    rings, note = rings_of(runs, most_points)
    return [ShapeValue({"vertices": _vertices(ring), "closed": True}, note) for ring in rings]


def outline_area(value: Json, size: Size) -> FloatArray:
    """The outline ``(N, 2)`` of what a vector surrounds, in pixels; of an open one, which covers nothing, no corner."""
    path = outline_vector(value, size)
    return path if _is_area(value, path) else np.zeros((0, 2))


def read_vector(value: Json, size: Size) -> BoolArray:
    """The mask ``(H, W)`` that a closed path surrounds; an open one covers nothing. Raises RequestError for what is no path."""
    path = outline_vector(value, size)
    return polygon_mask(path, size) if _is_area(value, path) else np.zeros((size.height, size.width), np.bool_)


def prompt_vector(value: Json, size: Size, role: Role) -> Prompt | BoolArray:
    """A closed path around the object is an outline of it, an open one a stroke over it; otherwise what it covers counts."""
    path = outline_vector(value, size)
    if not _is_area(value, path):
        return stroke_mask(path, LINE_PERCENT * size.width / 100, size)
    return PolygonPrompt(path) if role is Role.FOR else polygon_mask(path, size)


def outline_vector(value: Json, size: Size) -> FloatArray:
    """The path ``(N, 2)`` in pixels, curves as short lines. Raises RequestError when it has no vertices or a broken one."""
    vertices = _in_order(list(mappings(value.get("vertices"))))
    if not 0 < len(vertices) <= MOST_VERTICES:
        raise RequestError(f"expected 1 to {MOST_VERTICES} objects under a vector's 'vertices', got {len(vertices)}")
    ends = vertices[1:] + (vertices[:1] if value.get("closed") is True else [])
    ways = [_way(start, end) for start, end in zip(vertices, ends, strict=False)]
    last = [] if value.get("closed") is True else [_spot(vertices[-1])[None]]
    return percent_to_pixels(np.concatenate([*ways, *last]), size)


def _is_area(value: Json, path: FloatArray) -> bool:
    return value.get("closed") is True and len(path) >= 3


def _in_order(vertices: list[Json]) -> list[Json]:
    """The vertices along the path, as each names the one before it; as they come when they name no single path."""
    following = {vertex.get("prevPointId"): vertex for vertex in vertices if isinstance(vertex.get("prevPointId"), str)}
    path = [vertex for vertex in vertices if vertex.get("prevPointId") is None][:1]
    while path and (step := following.pop(path[-1].get("id"), None)) is not None:
        path.append(step)
    return path if len(path) == len(vertices) else vertices


def _way(start: Json, end: Json) -> FloatArray:
    """The points ``(N, 2)`` from one vertex to just before the next: a cubic Bezier curve when either has a control point
    towards the other (``controlPoint2`` leads away from a vertex, ``controlPoint1`` towards it).
    """
    here, there = _spot(start), _spot(end)
    leaving, arriving = _control(start, "controlPoint2"), _control(end, "controlPoint1")
    if leaving is None and arriving is None:
        return here[None]
    first = here + _PULL * (there - here) if leaving is None else leaving
    second = there - _PULL * (there - here) if arriving is None else arriving
    t = np.linspace(0, 1, _CURVE_STEPS, endpoint=False)[:, None]
    way: FloatArray = (1 - t) ** 3 * here + 3 * (1 - t) ** 2 * t * first + 3 * (1 - t) * t**2 * second + t**3 * there
    return way


def _spot(point: Json) -> FloatArray:
    return np.array([read_number(point, "x"), read_number(point, "y")])


def _control(vertex: Json, key: str) -> FloatArray | None:
    found = vertex.get(key)
    return _spot(found) if vertex.get("isBezier") is True and isinstance(found, Mapping) else None


def _vertices(ring: FloatArray) -> list[Json]:
    names = [None, *(f"v{place}" for place in range(len(ring)))]
    return [
        {"id": names[place + 1], "x": x, "y": y, "prevPointId": names[place], "isBezier": False}
        for place, (x, y) in enumerate(ring.tolist())
    ]
