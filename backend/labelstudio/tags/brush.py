"""Brush masks: every pixel as it is, in Label Studio's run-length code."""

from __future__ import annotations

from backend.labelstudio import rle
from backend.labelstudio.tags import Shape
from prompts.geometry import BoolArray


def write(mask: BoolArray) -> list[Shape]:
    """A mask ``(H, W)`` as a brush mask; nothing for an empty mask."""
    return [Shape({"format": "rle", "rle": rle.encode(mask)})] if mask.any() else []
