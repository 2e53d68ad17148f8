"""What masks on an image look like at the size of a stamp."""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image as PillowImage

from backend.photo import paint_masks
from prompts.geometry import BoolArray
from prompts.kinds import Image

LONGER_SIDE = 240
"""About so many pixels: images are shrunk by whole numbers, which is several times as quick."""
JPEG_QUALITY = 80


def stamp(image: Image, masks: BoolArray) -> bytes:
    """A small JPEG of an image ``(H, W, 3)`` with its masks ``(N, H, W)`` in colour."""
    height, width = image.shape[:2]
    step = max(1, round(max(height, width) / LONGER_SIDE))
    size = max(1, width // step), max(1, height // step)
    image = image[: size[1] * step, : size[0] * step]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    shrunk = [cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0 for mask in masks]
    painted = paint_masks(small, np.array(shrunk, np.bool_).reshape(-1, size[1], size[0]))
    out = io.BytesIO()
    PillowImage.fromarray(painted).save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()
