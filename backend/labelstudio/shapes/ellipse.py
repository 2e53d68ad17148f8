"""Ellipses: the one with a mask's area, centre and axes."""

from __future__ import annotations

import math

import numpy as np

from backend.labelstudio.shapes.base import Json, Role, ShapeValue, area_prompt, read_number
from backend.values.masks import RunLengths
from prompts.geometry import BoolArray, FloatArray, Size, ellipse_outline, polygon_mask, size_of
from prompts.kinds import PolygonPrompt, Prompt

LARGEST_RADIUS = 50.0
_PIXEL_VARIANCE = 1 / 12
"""A pixel is a square, not a point: this is its own variance along each axis."""


def write(runs: RunLengths) -> list[ShapeValue]:
    """The ellipse with the same centre and second moments as a mask ``(H, W)``; nothing for an empty mask.

    A uniform ellipse has the variance r^2 / 4 along an axis of radius r. Radii are percent of the width and the height of
    the image and, as the format has it, at most 50; to stay below that ``radiusX`` belongs to the axis nearer to the
    horizontal. The rotation is in degrees clockwise.
    """
    mask = runs.decode()
    rows, columns = np.nonzero(mask)
    if not rows.size:
        return []
    points = np.stack([columns, rows]).astype(np.float64) + 0.5
    centre = points.mean(axis=1)
    spread = (points - centre[:, None]) @ (points - centre[:, None]).T / rows.size + _PIXEL_VARIANCE * np.eye(2)
    variances, axes = np.linalg.eigh(spread)
    flat = int(np.abs(axes[0]).argmax())
    radii, size = 2 * np.sqrt(variances), size_of(mask)
    value = {
        "x": float(centre[0]) * 100 / size.width,
        "y": float(centre[1]) * 100 / size.height,
        "radiusX": min(float(radii[flat]) * 100 / size.width, LARGEST_RADIUS),
        "radiusY": min(float(radii[1 - flat]) * 100 / size.height, LARGEST_RADIUS),
        "rotation": math.degrees(math.atan2(axes[1, flat], axes[0, flat])) % 180,
    }
    return [ShapeValue(value)]


def read(value: Json, size: Size) -> BoolArray:
    """The mask ``(H, W)`` of an ellipse. Raises RequestError when it has no usable coordinates."""
    return polygon_mask(outline(value, size), size)


def prompt(value: Json, size: Size, role: Role) -> Prompt | None:
    """An ellipse around the object is an outline of it; otherwise what it covers counts."""
    return PolygonPrompt(outline(value, size)) if role is Role.FOR else area_prompt(read(value, size), role)


def outline(value: Json, size: Size) -> FloatArray:
    """Its outline ``(N, 2)`` in pixels. Raises RequestError when it has no usable coordinates."""
    x, y, radius_x, radius_y = (read_number(value, key) for key in ("x", "y", "radiusX", "radiusY"))
    across, down = size.width / 100, size.height / 100
    degrees = read_number(value, "rotation", 0.0)
    return ellipse_outline(x * across, y * down, radius_x * across, radius_y * down, degrees)
