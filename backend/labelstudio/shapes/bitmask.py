"""Bitmasks: a PNG whose opaque pixels are the mask."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from backend.labelstudio.shapes import Shape
from prompts.geometry import BoolArray

_HEAD = "data:image/png;base64,"


def write(mask: BoolArray) -> list[Shape]:
    """A mask ``(H, W)`` as a PNG with one bit a pixel, 0 transparent and 1 opaque; nothing for an empty mask.

    The page reads alpha alone; this is the smallest form that it draws.
    """
    if not mask.any():
        return []
    picture = Image.fromarray(mask.astype(np.uint8))
    picture.putpalette([0, 0, 0, 255, 255, 255])
    out = io.BytesIO()
    picture.save(out, "PNG", bits=1, transparency=0)
    return [Shape({"imageDataURL": _HEAD + base64.b64encode(out.getvalue()).decode()})]
