"""Square windows onto an image: cutting one out at a fixed side, and putting an answer back where it was cut."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from prompts.geometry import Size

SIDE = 96
"""Pixels of a view: whatever the window covers, the mask decoder sees it at this size."""


@dataclass(frozen=True, slots=True)
class Window:
    """A square of ``length`` pixels whose top-left corner is pixel ``(x, y)``; it may reach beyond the image."""

    x: int
    y: int
    length: int

    def to_view(self, points: NDArray[np.float64], side: int = SIDE) -> NDArray[np.float64]:
        """Image points ``(N, 2)`` as points of a view of ``side`` pixels."""
        return (np.asarray(points, np.float64).reshape(-1, 2) - (self.x, self.y)) * (side / self.length)

    def inside(self, size: Size) -> tuple[int, int, int, int]:
        """The part of the window that lies on the image, ``(x0, y0, x1, y1)``."""
        return max(self.x, 0), max(self.y, 0), min(self.x + self.length, size.width), min(self.y + self.length, size.height)


def whole(size: Size) -> Window:
    """The smallest window that holds an image."""
    length = max(size.height, size.width)
    return Window((size.width - length) // 2, (size.height - length) // 2, length)


def around(box: tuple[float, float, float, float], margin: float, least: int = 24) -> Window:
    """The window around a box whose length is the box's long side times ``margin``, at least ``least`` pixels."""
    x0, y0, x1, y1 = box
    length = max(round(max(x1 - x0, y1 - y0) * margin), least)
    return Window(round((x0 + x1 - length) / 2), round((y0 + y1 - length) / 2), length)


def near(xy: tuple[float, float], length: int, size: Size) -> Window:
    """A window of a given length with a point in its middle, moved back onto the image where it would leave it."""
    place = []
    for middle, extent in zip(xy, (size.width, size.height), strict=True):
        start = round(middle - length / 2)
        place.append((extent - length) // 2 if length >= extent else min(max(start, 0), extent - length))
    return Window(place[0], place[1], length)


def look(array: NDArray[np.generic], window: Window, side: int = SIDE, outside: float = 118) -> NDArray[np.generic]:
    """The window's part of ``array (H, W[, C])`` at ``side`` pixels, ``outside`` where it leaves the array.

    Whole numbers stay whole; shrinking averages areas, growing interpolates.
    """
    x0, y0, x1, y1 = window.inside(Size(array.shape[0], array.shape[1]))
    canvas = np.full((window.length, window.length, *array.shape[2:]), outside, array.dtype)
    if x1 > x0 and y1 > y0:
        canvas[y0 - window.y : y1 - window.y, x0 - window.x : x1 - window.x] = array[y0:y1, x0:x1]
    method = cv2.INTER_AREA if window.length > side else cv2.INTER_LINEAR
    return cv2.resize(canvas, (side, side), interpolation=method)


def put_back(view: NDArray[np.float32], window: Window, size: Size, outside: float) -> NDArray[np.float32]:
    """A view ``(S, S)`` as a map ``(H, W)`` of the whole image, ``outside`` where the window did not look."""
    result = np.full((size.height, size.width), outside, np.float32)
    x0, y0, x1, y1 = window.inside(size)
    if x1 > x0 and y1 > y0:
        grown = cv2.resize(view, (window.length, window.length), interpolation=cv2.INTER_LINEAR)
        result[y0:y1, x0:x1] = grown[y0 - window.y : y1 - window.y, x0 - window.x : x1 - window.x]
    return result
