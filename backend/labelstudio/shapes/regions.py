"""Regions of annotations and predictions as masks: what people drew and what was predicted, in pixels."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from backend.labelstudio.request.drafts import mappings
from backend.labelstudio.shapes import brush, label_of, read_number, read_value, region_kind
from backend.labelstudio.shapes import brush as rle
from backend.values.errors import RequestError
from prompts.geometry import (
    BoolArray,
    FloatArray,
    Size,
    ellipse_outline,
    percent_to_pixels,
    polygon_mask,
    rotated_rectangle,
)

Json = Mapping[str, Any]

LARGEST_BITMASK = 4
"""A bitmask may be stretched to its image; one of more pixels than so many times the image's is not decoded."""


@dataclass(frozen=True, slots=True, eq=False)
class DrawnRegion:
    """One region: its mask ``(H, W)``, its label, and the score of a prediction (1 for what a person drew)."""

    id: str
    mask: BoolArray
    label: str
    score: float


def read_regions(result: Sequence[Json]) -> list[DrawnRegion]:
    """The regions of one annotation or prediction that cover pixels and have a label; points, texts and relations do not.

    Parts of a region that share an id (a shape and its ``labels`` twin) are one. Raises RequestError for a region that
    cannot be read.
    """
    labels = {str(item.get("id")): label for item in mappings(list(result)) if (label := label_of(item))}
    seen: set[str] = set()
    return [region for item in mappings(list(result)) for region in _read(item, labels, seen)]


def _read(item: Json, labels: Mapping[str, str], seen: set[str]) -> Iterator[DrawnRegion]:
    kind = region_kind(item)
    name = str(item.get("id"))
    if kind not in _READERS or name not in labels or name in seen:
        return
    size = size_of_item(item)
    score = item.get("score")
    seen.add(name)
    mask = _READERS[kind](read_value(item), size)
    yield DrawnRegion(name, mask, labels[name], float(score) if isinstance(score, int | float) else 1.0)


def size_of_item(item: Json) -> Size:
    """The size of the image that a region was drawn on. Raises RequestError when the region does not tell."""
    height, width = (round(read_number(item, f"original_{side}")) for side in ("height", "width"))
    if height < 1 or width < 1:
        raise RequestError(f"expected a region on an image of at least 1 x 1 pixel, got {width} x {height}")
    return Size(height, width)


def covers_pixels(item: Json) -> bool:
    """Whether a result is a region with an area."""
    return region_kind(item) in _READERS


def mask_of(item: Json, size: Size) -> BoolArray:
    """The mask ``(H, W)`` of a region with an area. Raises RequestError when it cannot be read or is of another size."""
    return _READERS[region_kind(item)](read_value(item), size)


def _brush(value: Json, size: Size) -> BoolArray:
    painted = rle.decode(value["rle"], size) if isinstance(value.get("rle"), list) else None
    strokes = brush.read_strokes(value)
    if painted is None and not strokes:
        raise RequestError("a brush region has neither 'rle' nor strokes; open and submit its annotation again")
    return brush.paint(strokes, size, painted)


def read_points(value: Json) -> FloatArray:
    """The corners ``(N, 2)`` of a polygon in percent. Raises RequestError when there are no three."""
    try:
        points = np.asarray(value.get("points"), np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise RequestError("expected pairs of percents under a polygon's 'points'") from error
    if points.ndim != 2 or points.shape[0] < 3 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise RequestError("a polygon has no three points")
    return points


def _polygon(value: Json, size: Size) -> BoolArray:
    return polygon_mask(percent_to_pixels(read_points(value), size), size)


def _rectangle(value: Json, size: Size) -> BoolArray:
    x, y, width, height = (read_number(value, key) for key in ("x", "y", "width", "height"))
    across, down = size.width / 100, size.height / 100
    corners = rotated_rectangle(x * across, y * down, width * across, height * down, read_number(value, "rotation", 0.0))
    return polygon_mask(corners, size)


def _ellipse(value: Json, size: Size) -> BoolArray:
    x, y, radius_x, radius_y = (read_number(value, key) for key in ("x", "y", "radiusX", "radiusY"))
    across, down = size.width / 100, size.height / 100
    degrees = read_number(value, "rotation", 0.0)
    return polygon_mask(ellipse_outline(x * across, y * down, radius_x * across, radius_y * down, degrees), size)


def _bitmask(value: Json, size: Size) -> BoolArray:
    _, _, body = str(value.get("imageDataURL")).partition("base64,")
    try:
        opened = PillowImage.open(io.BytesIO(base64.b64decode(body, validate=True)))
        if opened.width * opened.height > LARGEST_BITMASK * size.pixels:
            raise RequestError(
                f"a bitmask has {opened.width} x {opened.height} pixels, too many for an image of {size.width} x {size.height}"
            )
        picture = opened.convert("RGBA")
    except (binascii.Error, OSError, ValueError, SyntaxError, PillowImage.DecompressionBombError) as error:
        raise RequestError(f"a bitmask is no PNG: {error}") from error
    alpha = picture.resize((size.width, size.height), PillowImage.Resampling.NEAREST).getchannel("A")
    mask: BoolArray = np.asarray(alpha) > 0
    return mask


_READERS: Mapping[str, Callable[[Json, Size], BoolArray]] = {
    "brush": _brush,
    "polygon": _polygon,
    "rectangle": _rectangle,
    "ellipse": _ellipse,
    "bitmask": _bitmask,
}
