"""Outlines of masks along the edges of their pixels: one closed ring for a mask of whatever parts and holes, which fills to it.

Rings are joined by bridges that run there and back, as Ultralytics joins the parts of a COCO object: a bridge has no area.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from backend.values.masks import RunLengths
from prompts.geometry import BoolArray, FloatArray

COMPARED_AT_ONCE = 4_000_000
"""Pairs of corners; of more corners every so-manieth is looked at to find a short bridge."""


def outline(mask: BoolArray) -> FloatArray:
    """The ring ``(N, 2)`` in pixels around a mask ``(H, W)``, empty for an empty one. Filled by the even-odd rule over pixel
    centres it gives the mask back.
    """
    area = shapely.simplify(_area(mask), 0)
    rings = [np.asarray(ring.coords)[:-1] for part in _parts(area) for ring in (part.exterior, *part.interiors)]
    return _joined(rings) if rings else np.zeros((0, 2))


def _area(mask: BoolArray) -> BaseGeometry:
    """The union of the boxes of all runs; ``simplify(0)`` later drops the corners on straight lines."""
    runs = RunLengths.of(mask)
    if not len(runs.edges):
        return shapely.Polygon()
    (rows, columns), window = runs.window()
    padded = np.zeros((window.shape[0], window.shape[1] + 2), np.int8)
    padded[:, 1:-1] = window
    turns = np.diff(padded, axis=1)
    (top, left), (_, right) = np.nonzero(turns == 1), np.nonzero(turns == -1)
    boxes = shapely.box(left + columns.start, top + rows.start, right + columns.start, top + rows.start + 1)
    return shapely.union_all(boxes)


def _parts(area: BaseGeometry) -> list[shapely.Polygon]:
    parts = area.geoms if isinstance(area, shapely.MultiPolygon) else [area]
    return sorted((part for part in parts if isinstance(part, shapely.Polygon)), key=lambda part: -part.area)


def _joined(rings: Sequence[FloatArray]) -> FloatArray:
    """Rings as one, each reached from the nearest corner of those before it and left by the same way."""
    whole = rings[0]
    for ring in rings[1:]:
        here, there = _nearest(whole, ring)
        turned = np.roll(ring, -there, axis=0)
        whole = np.concatenate([whole[: here + 1], turned, turned[:1], whole[here:]])
    return whole


def _nearest(ring: FloatArray, other: FloatArray) -> tuple[int, int]:
    """Two corners, one of each ring, that are close to each other."""
    step = max(1, int(np.ceil(np.sqrt(len(ring) * len(other) / COMPARED_AT_ONCE))))
    some, others = ring[::step], other[::step]
    distance = ((some[:, None] - others[None]) ** 2).sum(axis=2)
    here, there = np.unravel_index(int(distance.argmin()), distance.shape)
    return int(here) * step, int(there) * step
