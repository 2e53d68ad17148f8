"""Key points: smart ones are clicks, and a mask's key point is the spot deepest inside it."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from backend.labelstudio.shapes.base import Json, Role, ShapeValue, read_number, read_value, region_id
from backend.values.masks import RunLengths
from prompts.geometry import BoolArray, Size, percent_to_pixels, pixels_to_percent, size_of, stroke_mask
from prompts.kinds import PointPrompt, Prompt

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


def smart(item: Json) -> PointMark | None:
    """A smart key point as a click, or None for an ordinary one.

    Raises:
        RequestError: the point has no usable coordinates.
    """
    positive, value = sign(item), read_value(item)
    return None if positive is None else PointMark(read_number(value, "x"), read_number(value, "y"), positive, region_id(item))


def read(value: Json, size: Size) -> BoolArray:
    """The dot ``(H, W)`` around an ordinary key point. Raises RequestError when it has no usable coordinates."""
    return stroke_mask(np.array([_spot(value, True).prompt(size).xy]), DOT_PERCENT * size.width / 100, size)


def prompt(value: Json, size: Size, role: Role) -> Prompt | None:
    """An ordinary key point with a role is a click."""
    return _spot(value, role is not Role.AGAINST).prompt(size)


def write(runs: RunLengths) -> list[ShapeValue]:
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
