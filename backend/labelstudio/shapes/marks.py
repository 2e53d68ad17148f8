"""Rectangles and key points, the two that smart tools draw: boxes and clicks.

A mask's rectangle is its bounding box, and its key point the spot deepest inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np

from backend.labelstudio.shapes.base import Json, ShapeValue, read_number, read_value, region_id, region_kind
from backend.labelstudio.tags import Role
from backend.values.masks import RunLengths
from prompts.geometry import (
    BoolArray,
    FloatArray,
    Size,
    bounding_box,
    percent_to_pixels,
    pixels_to_percent,
    polygon_mask,
    rotated_rectangle,
    size_of,
    stroke_mask,
)
from prompts.kinds import BoxPrompt, PointPrompt, Prompt


@dataclass(frozen=True, slots=True)
class BoxMark:
    """A rectangle in percent of the image, turned clockwise around its top-left corner; ``id`` is the region's."""

    x: float
    y: float
    width: float
    height: float
    degrees: float
    id: str = field(default="", compare=False, repr=False)

    def __str__(self) -> str:
        return f"a box of {self.width:.4g} x {self.height:.4g} % at {self.x:.4g} %, {self.y:.4g} %"

    def holds(self, x: float, y: float) -> bool:
        """Whether a point, in percent, lies in the upright box around the rectangle; on a wide image a turned one is judged as
        if the image were square.
        """
        x0, y0, x1, y1 = bounding_box(rotated_rectangle(self.x, self.y, self.width, self.height, self.degrees))
        return x0 <= x <= x1 and y0 <= y <= y1

    def corners(self, size: Size) -> FloatArray:
        """Its corners ``(4, 2)`` in pixels."""
        across, down = size.width / 100, size.height / 100
        return rotated_rectangle(self.x * across, self.y * down, self.width * across, self.height * down, self.degrees)

    def prompt(self, size: Size) -> BoxPrompt:
        """The upright box around the rectangle in pixels, cut at the image's edges when it crosses them.

        A turned rectangle becomes its bounding box: engines learn from upright boxes, and each box is an object of its own.
        """
        x0, y0, x1, y1 = bounding_box(self.corners(size))
        if x1 < 0 or y1 < 0 or x0 > size.width or y0 > size.height:
            return BoxPrompt((x0, y0, x1, y1))
        return BoxPrompt((max(x0, 0.0), max(y0, 0.0), min(x1, float(size.width)), min(y1, float(size.height))))


def read_box(item: Json) -> BoxMark:
    """A rectangle; nothing tells a smart one from an ordinary one.

    Raises:
        RequestError: the rectangle has no usable coordinates.
    """
    value = read_value(item)
    x, y, width, height = (read_number(value, key) for key in ("x", "y", "width", "height"))
    return BoxMark(x, y, width, height, read_number(value, "rotation", 0.0), region_id(item))


def read_rectangle(value: Json, size: Size) -> BoolArray:
    """The mask ``(H, W)`` of a rectangle. Raises RequestError when it has no usable coordinates."""
    return polygon_mask(outline_rectangle(value, size), size)


def outline_rectangle(value: Json, size: Size) -> FloatArray:
    """Its corners ``(4, 2)`` in pixels. Raises RequestError when it has no usable coordinates."""
    return read_box({"value": value}).corners(size)


def prompt_rectangle(value: Json, size: Size, role: Role) -> Prompt | BoolArray:
    """A rectangle around the object is its box; otherwise what it covers counts."""
    return read_box({"value": value}).prompt(size) if role is Role.FOR else read_rectangle(value, size)


def write_rectangle(runs: RunLengths) -> list[ShapeValue]:
    """The bounding box of a mask ``(H, W)``; nothing for an empty mask."""
    box = runs.box
    if box is None:
        return []
    (x0, y0), (x1, y1) = pixels_to_percent(np.array(box, np.float64), runs.size).tolist()
    return [ShapeValue({"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, "rotation": 0})]


SLACK_PERCENT = 0.5
"""A click on the very edge may be sent a little outside; it is moved back."""
WIDTH_PERCENT = 0.5
DOT_PERCENT = 1.0
"""A key point that shows an example is a dot of this share of the image's width."""


@dataclass(frozen=True, slots=True)
class PointMark:
    """A click, in percent of the image; ``id`` is the region's."""

    x: float
    y: float
    positive: bool
    id: str = field(default="", compare=False, repr=False)

    def __str__(self) -> str:
        return f"a click at {self.x:.4g} %, {self.y:.4g} %"

    def prompt(self, size: Size) -> PointPrompt:
        """The click in pixels of the upright image."""
        (x, y), *_ = percent_to_pixels(np.array([[_nudge(self.x), _nudge(self.y)]]), size).tolist()
        return PointPrompt((x, y), self.positive)


def sign(item: Json) -> bool | None:
    """Whether a smart key point is for or against; None for an ordinary key point, which has no ``is_positive``."""
    told = (item.get("is_positive"), read_value(item).get("positive"))
    return next((found for found in told if isinstance(found, bool)), None)


def read_point(item: Json) -> PointMark | None:
    """A smart key point as a click, or None for an ordinary one.

    Raises:
        RequestError: the point has no usable coordinates.
    """
    positive, value = sign(item), read_value(item)
    return None if positive is None else PointMark(read_number(value, "x"), read_number(value, "y"), positive, region_id(item))


def read_keypoint(value: Json, size: Size) -> BoolArray:
    """The dot ``(H, W)`` around an ordinary key point. Raises RequestError when it has no usable coordinates."""
    return stroke_mask(np.array([_spot(value, True).prompt(size).xy]), DOT_PERCENT * size.width / 100, size)


def prompt_keypoint(value: Json, size: Size, role: Role) -> Prompt | None:
    """An ordinary key point with a role is a click."""
    return _spot(value, role is not Role.AGAINST).prompt(size)


def write_keypoint(runs: RunLengths) -> list[ShapeValue]:
    """The pixel of a mask ``(H, W)`` that is farthest from its outline; nothing for an empty mask."""
    mask = runs.decode()
    if not mask.any():
        return []
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), mask.shape)
    (x, y), *_ = pixels_to_percent(np.array([[column + 0.5, row + 0.5]]), size_of(mask)).tolist()
    return [ShapeValue({"x": x, "y": y, "width": WIDTH_PERCENT})]


def _nudge(percent: float) -> float:
    clamped = min(max(percent, 0.0), 100.0)
    return clamped if abs(percent - clamped) <= SLACK_PERCENT else percent


def _spot(value: Json, positive: bool) -> PointMark:
    return PointMark(read_number(value, "x"), read_number(value, "y"), positive)


Mark = PointMark | BoxMark
"""A smart prompt in percent of the image, whose pixels need not be known yet."""

SMART: Mapping[str, Callable[[Json], Mark | None]] = {"rectangle": read_box, "keypoint": read_point}
"""The shapes that have a smart tool, and what it sends: None for an ordinary region."""


def read_smart(item: Json) -> Mark | None:
    """What a smart tool drew; None for an ordinary region. Raises RequestError when it has no usable coordinates."""
    read = SMART.get(region_kind(item))
    return None if read is None else read(item)
