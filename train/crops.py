"""Square training crops: scaled, moved, mirrored, recoloured, and with cutouts pasted on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from prompts.geometry import mask_box
from train.data import CUTOUTS, VOID, Photo

Dice = np.random.Generator
CUTOUT_SIDE = 128
PRODUCT_SIDE = 256
WHOLE = ("coco_mini", "coco_person", "bsds_objects", "weizmann_horses")
"""Sources whose masks hold one whole object each."""
PLAIN = ("caltech101_plain", "grocery_iconic", "ikea_products")
"""Sources of single things on an empty background: the encoder is shown their objects alone, on other photos."""
LEAST_LIFTED = 0.015
MOST_LIFTED = 4
ZOOM = (0.9, 1.8)
SMALL, LARGE = (0.15, 0.55), (0.4, 1.0)
"""How large pasted objects are, as a share of the crop's side."""


@dataclass(frozen=True, slots=True)
class Crop:
    """``image (S, S, 3)`` RGB uint8, ``ids (S, S)`` uint8 (255 outside the photo), names by id, names that are absent."""

    image: NDArray[np.uint8]
    ids: NDArray[np.uint8]
    names: dict[int, str]
    absent: tuple[str, ...]
    incomplete: frozenset[str]


def cut(photo: Photo, side: int, dice: Dice, zoom: tuple[float, float] = ZOOM) -> Crop:
    """A square window of a photo whose long side would be ``zoom`` windows, resized to ``side``."""
    height, width = photo.ids.shape
    window = max(height, width) / dice.uniform(*zoom)
    x = dice.uniform(0, width - window) if width > window else (width - window) / 2
    y = dice.uniform(0, height - window) if height > window else (height - window) / 2
    image, ids = warp(photo.image, photo.ids, (x, y, window), side)
    if dice.random() < 0.5:
        image, ids = np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(ids[:, ::-1])
    return Crop(recolour(image, dice), ids, dict(photo.row.names), photo.absent, photo.row.incomplete)


def warp(
    image: NDArray[np.uint8], ids: NDArray[np.uint8], window: tuple[float, float, float], side: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The square ``window (x, y, length)`` of an image and its ids at ``side`` pixels; void and grey outside."""
    x, y, length = window
    scale = side / length
    matrix = np.array([[scale, 0, -x * scale + (scale - 1) / 2], [0, scale, -y * scale + (scale - 1) / 2]])
    if scale < 0.7:
        image = cv2.blur(image, (max(1, round(0.8 / scale)),) * 2)
    grey = (118.0, 118.0, 118.0)
    small = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderValue=grey)
    labels = cv2.warpAffine(ids, matrix, (side, side), flags=cv2.INTER_NEAREST, borderValue=VOID)
    return small, labels


def recolour(image: NDArray[np.uint8], dice: Dice) -> NDArray[np.uint8]:
    """Brightness, contrast, saturation and channel balance, each by a random factor; one photo in 12 loses its colours."""
    x = image.astype(np.float32)
    if dice.random() < 0.8:
        grey = x.mean(axis=2, keepdims=True)
        x = grey + (x - grey) * dice.uniform(0.6, 1.4)
        x = (x - 118) * dice.uniform(0.7, 1.3) + 118 * dice.uniform(0.75, 1.25)
        x = x * dice.uniform(0.92, 1.08, 3).astype(np.float32)
    if dice.random() < 0.08:
        x = np.repeat(x.mean(axis=2, keepdims=True), 3, axis=2)
    return np.clip(x, 0, 255).astype(np.uint8)


def paste(crop: Crop, cutouts: Sequence[Photo], dice: Dice, share: tuple[float, float] = SMALL) -> Crop:
    """The crop with one or two of ``cutouts`` pasted on it, each under a mask id of its own and as large as a ``share`` of the
    crop; unchanged without cutouts.
    """
    if not cutouts:
        return crop
    image, ids, names = crop.image.copy(), crop.ids.copy(), dict(crop.names)
    for _ in range(dice.integers(1, 3)):
        free = next((k for k in range(1, VOID) if k not in names), None)
        if free is None:
            break
        cutout = cutouts[dice.integers(len(cutouts))]
        _place(image, ids, cutout, free, share, dice)
        names[free] = next(iter(cutout.row.names.values()))
    absent = tuple(name for name in crop.absent if name not in names.values())
    return Crop(image, ids, names, absent, crop.incomplete)


def lifted(photos: Sequence[Photo]) -> list[Photo]:
    """Objects of photos as cutouts, at most the four largest of each photo (after Ghiasi et al. 2021, copy-paste)."""
    return [
        _lift(photo, key) for photo in photos if photo.row.source in WHOLE and photo.row.mask for key in _large_objects(photo)
    ]


def products(photos: Sequence[Photo]) -> list[Photo]:
    """The objects of photos with an empty background as cutouts."""
    shown = [photo for photo in photos if photo.row.source in PLAIN]
    return [_lift(photo, key, PRODUCT_SIDE) for photo in shown for key in photo.row.names if (photo.ids == key).sum() >= 64]


def _large_objects(photo: Photo) -> list[int]:
    counts = np.bincount(photo.ids.ravel(), minlength=256)
    large = [key for key in photo.row.names if counts[key] >= LEAST_LIFTED * photo.ids.size]
    return sorted(large, key=lambda key: -counts[key])[:MOST_LIFTED]


def _lift(photo: Photo, key: int, side: int = CUTOUT_SIDE) -> Photo:
    """One object of a photo in the middle of a square of ``side`` pixels; its alpha's rim is soft and inside the mask."""
    mask = (photo.ids == key).astype(np.uint8)
    box = mask_box(mask.astype(np.bool_))
    assert box is not None
    x0, y0, x1, y1 = box
    length = max(x1 - x0, y1 - y0)
    window = ((x0 + x1 - length) / 2, (y0 + y1 - length) / 2, float(length))
    image, inside = warp(photo.image, mask, window, side)
    rim = cv2.GaussianBlur(np.where(inside == 1, 255, 0).astype(np.uint8), (0, 0), 1.0)
    alpha = np.where(inside == 1, rim, 0).astype(np.uint8)
    row = replace(photo.row, names={1: photo.row.names[key]}, source=CUTOUTS)
    return Photo(row, image, (alpha > 127).astype(np.uint8), (), alpha)


def _place(
    image: NDArray[np.uint8], ids: NDArray[np.uint8], cutout: Photo, key: int, share: tuple[float, float], dice: Dice
) -> None:
    side, source = len(ids), len(cutout.image)
    size = int(side * dice.uniform(*share))
    matrix = cv2.getRotationMatrix2D((source / 2,) * 2, float(dice.normal(0, 15)), size / source)
    matrix[:, 2] += (size - source) / 2
    assert cutout.alpha is not None
    if dice.random() < 0.5:  # mirrored
        matrix = matrix @ np.array([[-1, 0, source - 1], [0, 1, 0], [0, 0, 1]])
    colour = cv2.warpAffine(recolour(cutout.image, dice), matrix, (size, size), flags=cv2.INTER_AREA)
    alpha = cv2.warpAffine(cutout.alpha, matrix, (size, size)).astype(np.float32)[:, :, None] / 255
    x, y = dice.integers(0, side - size + 1, 2)
    there = image[y : y + size, x : x + size]
    there[:] = there * (1 - alpha) + colour * alpha
    ids[y : y + size, x : x + size][alpha[:, :, 0] > 0.5] = key
