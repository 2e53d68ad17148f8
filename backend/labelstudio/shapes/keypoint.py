"""Key points: smart ones are clicks, and a mask's key point is the spot deepest inside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from backend.labelstudio.shapes import Shape, read_number, read_value, region_id
from prompts.geometry import BoolArray, Size, percent_to_pixels, pixels_to_percent, size_of
from prompts.kinds import PointPrompt

SLACK_PERCENT = 0.5
"""A click on the very edge may be sent a little outside; it is moved back."""
WIDTH_PERCENT = 0.5


@dataclass(frozen=True, slots=True)
class PointMark:
    """A click, in percent of the image; ``id`` is the region's."""

    x: float
    y: float
    positive: bool
    id: str = field(default="", compare=False, repr=False)

    def prompt(self, size: Size) -> PointPrompt:
        """The click in pixels of the upright image."""
        (x, y), *_ = percent_to_pixels(np.array([[_nudge(self.x), _nudge(self.y)]]), size).tolist()
        return PointPrompt((x, y), self.positive)


def sign(item: Mapping[str, Any]) -> bool | None:
    """Whether a smart key point is for or against; None for an ordinary key point, which has no ``is_positive``."""
    told = (item.get("is_positive"), read_value(item).get("positive"))
    return next((found for found in told if isinstance(found, bool)), None)


def read(item: Mapping[str, Any]) -> PointMark | None:
    """A smart key point as a click, or None for an ordinary one.

    Raises:
        RequestError: the point has no usable coordinates.
    """
    positive, value = sign(item), read_value(item)
    return None if positive is None else PointMark(read_number(value, "x"), read_number(value, "y"), positive, region_id(item))


def write(mask: BoolArray) -> list[Shape]:
    """The pixel of a mask ``(H, W)`` that is farthest from its outline; nothing for an empty mask."""
    if not mask.any():
        return []
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), mask.shape)
    (x, y), *_ = pixels_to_percent(np.array([[column + 0.5, row + 0.5]]), size_of(mask)).tolist()
    return [Shape({"x": x, "y": y, "width": WIDTH_PERCENT})]


def _nudge(percent: float) -> float:
    clamped = min(max(percent, 0.0), 100.0)
    return clamped if abs(percent - clamped) <= SLACK_PERCENT else percent
