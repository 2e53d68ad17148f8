"""Sizes, coordinates and shapes: the only place that turns percent into pixels and outlines into masks.

Coordinates are pixels of the upright image, ``x`` to the right and ``y`` down; pixel ``(row, column)`` covers
``[column, column + 1) x [row, row + 1)``. Masks are ``(H, W)`` bool.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

PixelBox = tuple[int, int, int, int]
"""``(x0, y0, x1, y1)`` in pixels, the far sides exclusive."""
BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

_SUBPIXEL_BITS = 4
"""OpenCV draws outlines on a grid of 1/16 pixel."""
_CROSSINGS = 1 << 20
"""So many places at which edges cross rows are computed at once: an outline of many corners may cross every row with each."""
_STRIP = 256
_MOST_PARTS = 8
"""Of a million crossings each."""
"""Rows that are filled at once."""


@dataclass(frozen=True, slots=True)
class Size:
    """Height and width of an image in pixels, always in that order."""

    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"expected at least 1 x 1 pixel, got height {self.height} and width {self.width}")

    @property
    def pixels(self) -> int:
        return self.height * self.width


def size_of(array: NDArray[np.generic]) -> Size:
    """The size of an image ``(H, W, ...)`` or a mask ``(H, W)``."""
    return Size(int(array.shape[0]), int(array.shape[1]))


def percent_to_pixels(points: FloatArray, size: Size) -> FloatArray:
    """Points ``(N, 2)`` in percent of the image's width and height, to pixels."""
    return np.asarray(points, np.float64).reshape(-1, 2) * (size.width, size.height) / 100


def pixels_to_percent(points: FloatArray, size: Size) -> FloatArray:
    """Points ``(N, 2)`` in pixels, to percent of the image's width and height."""
    return np.asarray(points, np.float64).reshape(-1, 2) * 100 / (size.width, size.height)


def rotated_rectangle(x: float, y: float, width: float, height: float, degrees: float) -> FloatArray:
    """The corners ``(4, 2)`` of a rectangle turned clockwise around its own top-left corner ``(x, y)``."""
    angle = math.radians(degrees)
    across = np.array([math.cos(angle), math.sin(angle)]) * width
    down = np.array([-math.sin(angle), math.cos(angle)]) * height
    corner = np.array([x, y], np.float64)
    return np.stack([corner, corner + across, corner + across + down, corner + down])


def ellipse_outline(x: float, y: float, radius_x: float, radius_y: float, degrees: float) -> FloatArray:
    """The outline ``(64, 2)`` of an ellipse around ``(x, y)``, turned clockwise."""
    turn = np.linspace(0, 2 * math.pi, 64, endpoint=False)
    flat = np.stack([radius_x * np.cos(turn), radius_y * np.sin(turn)], axis=1)
    angle = math.radians(degrees)
    rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    outline: FloatArray = flat @ rotation + (x, y)
    return outline


def bounding_box(points: FloatArray) -> tuple[float, float, float, float]:
    """The upright box ``(x0, y0, x1, y1)`` around points ``(N, 2)``."""
    low, high = points.min(axis=0), points.max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def mask_box(mask: BoolArray) -> tuple[int, int, int, int] | None:
    """The box ``(x0, y0, x1, y1)`` around a mask, the far sides exclusive; None for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def clip_box(xyxy: tuple[float, float, float, float], size: Size) -> tuple[int, int, int, int]:
    """The pixels that a box touches, as ``(x0, y0, x1, y1)`` with the far sides exclusive and at least one pixel."""
    x0 = min(max(math.floor(xyxy[0]), 0), size.width - 1)
    y0 = min(max(math.floor(xyxy[1]), 0), size.height - 1)
    x1 = min(max(math.ceil(xyxy[2]), x0 + 1), size.width)
    y1 = min(max(math.ceil(xyxy[3]), y0 + 1), size.height)
    return x0, y0, x1, y1


def box_mask(xyxy: tuple[float, float, float, float], size: Size) -> BoolArray:
    """The mask ``(H, W)`` of every pixel that a box touches."""
    x0, y0, x1, y1 = clip_box(xyxy, size)
    mask = np.zeros((size.height, size.width), np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def polygon_mask(points: FloatArray, size: Size) -> BoolArray:
    """The mask ``(H, W)`` of the pixels whose centres lie inside a closed outline ``(N, 2)``, by the even-odd rule; an
    outline that is too thin to hold a centre covers the pixels that it touches.
    """
    return _fill_or_trace([points], points, size)


def stroke_mask(points: FloatArray, width: float, size: Size) -> BoolArray:
    """The mask ``(H, W)`` of a round brush of ``width`` pixels, at least one, moved along ``(N, 2)``.

    Each segment is swept by itself: GEOS leaves gaps where a path that crosses itself is buffered as a whole.
    """
    path = _reachable(points)
    steps = shapely.linestrings(np.stack([path[:-1], path[1:]], axis=1)) if len(path) > 1 else shapely.points(path)
    swept = shapely.union_all(shapely.buffer(steps, max(width, 1.0) / 2))
    pieces = getattr(swept, "geoms", [swept])
    rings = [np.asarray(ring.coords) for piece in pieces for ring in (piece.exterior, *piece.interiors)]
    return _fill_or_trace(rings, path, size)


def _fill_or_trace(rings: Sequence[FloatArray], path: FloatArray, size: Size) -> BoolArray:
    """The pixels inside the rings or, where there are none, those along the path."""
    filled = _fill([_reachable(ring) for ring in rings], size)
    if filled.any():
        return filled
    canvas = np.zeros((size.height, size.width), np.uint8)
    fixed_point = np.round((_reachable(path) - 0.5) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    cv2.polylines(canvas, [fixed_point], True, 1, 1, cv2.LINE_8, _SUBPIXEL_BITS)
    return canvas.astype(np.bool_)


def _fill(rings: Sequence[FloatArray], size: Size) -> BoolArray:
    """The pixels whose centres lie inside an odd number of rings."""
    mask = np.zeros((size.height, size.width + 1), np.bool_)
    for rows, columns in _crossings(rings, size):
        np.logical_xor.at(mask, (rows, columns), True)
    for low in range(0, size.height, _STRIP):
        strip = mask[low : low + _STRIP]
        if strip.any():
            np.logical_xor.accumulate(strip, axis=1, out=strip)
    return np.ascontiguousarray(mask[:, : size.width])


def _crossings(rings: Sequence[FloatArray], size: Size) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Where edges of the rings turn over all pixels to the right: rows whose centre line an edge crosses, and columns, as many
    as the width for an edge that turns nothing over; a part of them at a time.
    """
    starts, ends = np.concatenate(rings), np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    rise = ends[:, 1] - starts[:, 1]
    first, last = (np.clip(np.ceil(edge(starts[:, 1], ends[:, 1]) - 0.5), 0, size.height) for edge in (np.minimum, np.maximum))
    crossed = (last - first).astype(np.intp)
    total = np.cumsum(crossed)
    for done in range(0, int(total[-1]), _CROSSINGS):
        some = slice(int(np.searchsorted(total, done, "right")), int(np.searchsorted(total, done + _CROSSINGS, "left")) + 1)
        nth = np.arange(done, min(done + _CROSSINGS, int(total[-1])))
        edges = some.start + np.searchsorted(total[some], nth, "right")
        rows = first[edges] + nth - (total - crossed)[edges]
        x = starts[edges, 0] + (rows + 0.5 - starts[edges, 1]) / rise[edges] * (ends[edges, 0] - starts[edges, 0])
        yield rows.astype(np.intp), np.clip(np.ceil(x - 0.5), 0, size.width).astype(np.intp)


def outline_runs(points: FloatArray, size: Size) -> NDArray[np.int64] | None:
    """Where the runs of ``polygon_mask`` begin and, exclusive, end, counted row by row, without a pixel being drawn; None for
    an outline that is too thin to hold a pixel's centre, or so winding that drawing it is quicker.
    """
    turns: list[NDArray[np.int64]] = []
    for rows, columns in _crossings([_reachable(points)], size):
        if len(turns) == _MOST_PARTS:
            return None
        turns.append(rows.astype(np.int64) * size.width + columns)
    pairs = np.sort(np.concatenate(turns)).reshape(-1, 2) if turns else np.zeros((0, 2), np.int64)
    edges = pairs[pairs[:, 0] < pairs[:, 1]].ravel()
    apart = np.ones(len(edges), np.bool_)
    apart[1:-1:2] = apart[2::2] = edges[1:-1:2] != edges[2::2]
    return edges[apart] if len(edges) else None


def _reachable(points: FloatArray) -> FloatArray:
    """Points ``(N, 2)``, cut to a million pixels around the image, within which sums and squares stay exact enough."""
    return np.clip(np.asarray(points, np.float64).reshape(-1, 2), -1e6, 1e6)


def check_length(counts: bytes | str, pixels: int) -> None:
    """Raise ValueError unless COCO's compressed run lengths are for so many pixels: a decoder fills what they lack with
    whatever is in memory.

    A count has five bits in each letter, the last with its sign; from the fourth on it is the difference to the last but one.
    """
    letters = np.frombuffer(counts.encode() if isinstance(counts, str) else counts, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(letters & 0x20 == 0)
    lengths = np.diff(ends, prepend=-1)
    if not len(ends) or ends[-1] != len(letters) - 1 or letters.min() < 0 or letters.max() > 63 or lengths.max() > 7:
        raise ValueError("these are no run lengths")
    place = 5 * (np.arange(len(letters)) - np.repeat(ends + 1 - lengths, lengths))
    values = np.add.reduceat((letters & 0x1F) << place, ends + 1 - lengths)
    values -= np.where(letters[ends] & 0x10, 1 << 5 * lengths, 0)
    total = values[0] + values[1::2].cumsum().sum() + values[2::2].cumsum().sum()
    if total != pixels:
        raise ValueError(f"the run lengths are for {total:,} pixels, not for {pixels:,}")
