"""Vectors: a path of vertices, straight or curved; a closed one surrounds what it marks, an open one only runs over it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from backend.labelstudio.shapes.base import Json, Role, ShapeValue, area_prompt, mappings, read_number
from backend.labelstudio.shapes.polygon import rings_of
from backend.values.errors import RequestError
from backend.values.masks import RunLengths
from prompts.geometry import BoolArray, FloatArray, Size, percent_to_pixels, polygon_mask, stroke_mask
from prompts.kinds import PolygonPrompt, Prompt

MOST_VERTICES = 10_000
LINE_PERCENT = 1.0
"""An open path that prompts is a stroke of this share of the image's width."""
_PULL = 0.3
"""Where only one end of a curve has a control point, the page puts the other at this share of the straight way."""
_CURVE_STEPS = 16


def write(runs: RunLengths) -> list[ShapeValue]:
    """The parts of a mask ``(H, W)`` as closed paths of straight lines, as polygons are; nothing for an empty mask."""
    rings, note = rings_of(runs.decode())
    return [ShapeValue({"vertices": _vertices(ring), "closed": True}, note) for ring in rings]


def read(value: Json, size: Size) -> BoolArray:
    """The mask ``(H, W)`` that a closed path surrounds; an open one covers nothing. Raises RequestError for what is no path."""
    path = outline(value, size)
    return polygon_mask(path, size) if _is_area(value, path) else np.zeros((size.height, size.width), np.bool_)


def prompt(value: Json, size: Size, role: Role) -> Prompt | None:
    """A closed path around the object is an outline of it, an open one a stroke over it; otherwise what it covers counts."""
    path = outline(value, size)
    if not _is_area(value, path):
        return area_prompt(stroke_mask(path, LINE_PERCENT * size.width / 100, size), role)
    return PolygonPrompt(path) if role is Role.FOR else area_prompt(polygon_mask(path, size), role)


def outline(value: Json, size: Size) -> FloatArray:
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
