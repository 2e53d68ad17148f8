"""Masks painted on images: overlays in colour, and thumbnails."""

from __future__ import annotations

import io
from collections.abc import Iterable

import cv2
import numpy as np
from PIL import Image as PillowImage

from prompts.geometry import BoolArray, mask_box
from prompts.kinds import Image

PALETTE = ((230, 57, 70), (29, 120, 240), (42, 157, 80), (244, 162, 30), (131, 56, 236), (0, 180, 190), (255, 0, 110))
LONGER_SIDE = 240
"""About so many pixels: images are shrunk by whole numbers, which is several times as quick."""
JPEG_QUALITY = 80


def paint_masks(image: Image, masks: Iterable[BoolArray]) -> Image:
    """An image ``(H, W, 3)`` with each of its masks ``(H, W)`` in a colour of its own, outlined."""
    picture = image.copy()
    for row, mask in enumerate(masks):
        paint_mask(picture, mask, PALETTE[row % len(PALETTE)])
    return picture


def paint_mask(picture: Image, mask: BoolArray, colour: tuple[int, int, int]) -> None:
    """Paint a mask ``(H, W)`` on a picture ``(H, W, 3)``, outlined."""
    picture[mask] = (0.5 * picture[mask] + 0.5 * np.array(colour)).astype(np.uint8)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outlines, -1, colour, max(1, min(picture.shape[:2]) // 300))


def write_name(picture: Image, mask: BoolArray, name: str, colour: tuple[int, int, int]) -> None:
    box = mask_box(mask)
    if box is None:
        return
    scale = max(0.4, min(picture.shape[:2]) / 900)
    (width, height), _ = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    x = int(np.clip(box[0], 0, max(0, picture.shape[1] - width - 4)))
    y = int(np.clip(box[1], height + 4, picture.shape[0]))
    cv2.rectangle(picture, (x, y - height - 4), (x + width + 4, y + 2), colour, -1)
    cv2.putText(picture, name, (x + 2, y - 2), cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)


def thumbnail(image: Image, masks: Iterable[BoolArray]) -> bytes:
    """A small JPEG of an image ``(H, W, 3)`` with its masks ``(H, W)`` in colour."""
    height, width = image.shape[:2]
    step = max(1, round(max(height, width) / LONGER_SIDE))
    size = max(1, width // step), max(1, height // step)
    image = image[: size[1] * step, : size[0] * step]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    shrunk = [cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0 for mask in masks]
    painted = paint_masks(small, shrunk)
    out = io.BytesIO()
    PillowImage.fromarray(painted).save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()
