"""Small pictures and the files that they become."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MOST = 1_000_000
"""The pixel limit of the tests that are not about it."""
Pixels = NDArray[np.uint8]


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(height: int, width: int, bands: int = 3, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, bands), np.uint8)


def blocks() -> Pixels:
    """A picture ``(48, 80, 3)`` of six even blocks, which lossy formats keep almost as they are."""
    colours = np.array([[[230, 30, 30], [30, 200, 30], [30, 30, 230]], [[240, 240, 20], [20, 20, 20], [200, 200, 200]]])
    return np.pad(colours.repeat(24, axis=0).repeat(26, axis=1), ((0, 0), (0, 2), (0, 0)), "edge").astype(np.uint8)
