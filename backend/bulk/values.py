"""What a run knows about its target and its items, as plain values that travel between threads and machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from pycocotools import mask as coco

from backend.stores.ledger import Item
from prompts.geometry import BoolArray, Size


class Target(StrEnum):
    """Where the answers go."""

    PREDICTIONS = "predictions"
    IMPORT = "import"
    COCO = "coco"
    YOLO = "yolo"
    PNG = "png"


@dataclass(frozen=True, slots=True)
class Found:
    """One region: its box is ``(x, y, width, height)`` in pixels, ``rle`` COCO's compressed run lengths where asked for."""

    label: str
    score: float
    pixels: int
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
    rle: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """An item with what was found on it, or with the reason why nothing could be."""

    item: Item
    size: Size | None = None
    regions: Sequence[Found] = ()
    prediction: Mapping[str, Any] = field(default_factory=dict)
    thumbnail: bytes = b""
    failure: str = ""

    @property
    def least_score(self) -> float:
        """The score of the least certain region; 0 when nothing was found."""
        return min((region.score for region in self.regions), default=0.0)


def encode_mask(mask: BoolArray) -> str:
    """COCO's compressed run lengths of a mask ``(H, W)``."""
    return str(coco.encode(np.asfortranarray(mask, np.uint8))["counts"].decode("ascii"))


def decode_mask(rle: str, size: Size) -> BoolArray:
    """The mask ``(H, W)`` of COCO's compressed run lengths."""
    mask: BoolArray = coco.decode({"size": [size.height, size.width], "counts": rle.encode("ascii")}).astype(np.bool_)
    return mask
