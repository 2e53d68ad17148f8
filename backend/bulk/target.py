"""The kinds of target that answers can go to."""

from __future__ import annotations

from enum import StrEnum


class Target(StrEnum):
    """Where the answers go."""

    PREDICTIONS = "predictions"
    IMPORT = "import"
    COCO = "coco"
    YOLO = "yolo"
    PNG = "png"
