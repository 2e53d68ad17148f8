"""Brush masks: every pixel as it is, in Label Studio's run-length code; and strokes, which are what a draft holds of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.labelstudio.shapes import FARTHEST_PERCENT, Shape, read_number, rle
from backend.values.errors import RequestError
from prompts.geometry import BoolArray, FloatArray, Size, percent_to_pixels, stroke_mask

MOST_POINTS = 100_000


@dataclass(frozen=True, slots=True, eq=False)
class Stroke:
    """One stroke: its path ``(N, 2)`` in percent of the image, its width in percent of the image's width, and whether it paints
    or erases.
    """

    path: FloatArray
    width: float
    erases: bool


def write(mask: BoolArray) -> list[Shape]:
    """A mask ``(H, W)`` as a brush mask; nothing for an empty mask."""
    return [Shape({"format": "rle", "rle": rle.encode(mask)})] if mask.any() else []


def read_strokes(value: Mapping[str, Any]) -> list[Stroke]:
    """The strokes of a brush region that the page has not turned into a mask yet, in drawing order.

    Raises:
        RequestError: a stroke has no usable path or width.
    """
    touches = value.get("touches")
    return [_read_stroke(touch) for touch in touches if isinstance(touch, Mapping)] if isinstance(touches, list) else []


def paint(strokes: Sequence[Stroke], size: Size, ground: BoolArray | None = None) -> BoolArray:
    """The mask ``(H, W)`` that the strokes leave, one after the other, on a mask that was there before."""
    mask = np.zeros((size.height, size.width), np.bool_) if ground is None else ground.copy()
    for stroke in strokes:
        covered = stroke_mask(percent_to_pixels(stroke.path, size), stroke.width * size.width / 100, size)
        mask = mask & ~covered if stroke.erases else mask | covered
    return mask


def _read_stroke(touch: Mapping[str, Any]) -> Stroke:
    try:
        flat = np.asarray(touch.get("relativePoints"), np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise RequestError("expected percents under a stroke's 'relativePoints'") from error
    if flat.ndim != 1 or not 2 <= flat.size <= MOST_POINTS or flat.size % 2 or not (np.abs(flat) <= FARTHEST_PERCENT).all():
        raise RequestError(f"expected pairs of percents under a stroke's 'relativePoints', got an array of {flat.shape}")
    return Stroke(flat.reshape(-1, 2), read_number(touch, "relativeStrokeWidth"), touch.get("type") == "eraser")
