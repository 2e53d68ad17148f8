"""What a run knows about its source, its target and its items, as plain values that travel between threads and machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from pycocotools import mask as coco

from backend.caches import DiskCache
from backend.stores.ledger import Item
from backend.values.masks import RunLengths
from backend.video.tracks import FrameMask
from prompts.geometry import BoolArray, Size


class Target(StrEnum):
    """Where the results go."""

    PREDICTIONS = "predictions"
    IMPORT = "import"
    COCO = "coco"
    YOLO = "yolo"
    PNG = "png"


class Form(StrEnum):
    """What a sink needs of a result."""

    PREDICTION = "prediction"
    MASKS = "masks"


@dataclass(frozen=True, slots=True)
class FoundRegion:
    """One region: its box is ``(x, y, width, height)`` in pixels, ``rle`` COCO's compressed run lengths where asked for."""

    label: str
    score: float
    pixels: int
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
    rle: str = ""


@dataclass(frozen=True, slots=True)
class ItemResult:
    """An item with what was found on it, or with the reason why nothing could be."""

    item: Item
    size: Size | None = None
    regions: Sequence[FoundRegion] = ()
    prediction: Mapping[str, Any] = field(default_factory=dict)
    thumbnail: bytes = b""
    failure: str = ""

    @property
    def least_score(self) -> float:
        """The score of the least certain region; 0 when nothing was found."""
        return min((region.score for region in self.regions), default=0.0)


@dataclass(frozen=True, slots=True)
class FilmShelf:
    """What is kept of films on disk: how far each was looked through, and the masks of what was found, by region."""

    progress: DiskCache[bytes]
    masks: DiskCache[Mapping[int, FrameMask]]


class Sink(Protocol):
    """A target, which can be given the same result twice and keeps it once. ``name`` tells a person, and the ledger, which:
    what is written under one name replaces what was there.
    """

    @property
    def name(self) -> str: ...

    @property
    def form(self) -> Form:
        """What it needs of a result."""
        ...

    def arrived(self, keys: Sequence[str]) -> set[str]:
        """Of results that may or may not have been written before the last process ended, those that were."""
        ...

    def remove(self, keys: Sequence[str]) -> None:
        """Take away the earlier results of items that are done anew."""
        ...

    def write(self, results: Sequence[ItemResult]) -> Mapping[str, str]:
        """Write results so that they last; the reasons for those that the target does not take, by key.

        Raises MaskloomError when the target cannot be written to at all.
        """
        ...

    def finish(self) -> str:
        """Put together what was written; says where it is."""
        ...


def encode_mask(runs: RunLengths) -> str:
    """COCO's compressed run lengths of a mask."""
    return runs.coco_counts()


def decode_mask(rle: str, size: Size) -> BoolArray:
    """The mask ``(H, W)`` of COCO's compressed run lengths."""
    mask: BoolArray = coco.decode({"size": [size.height, size.width], "counts": rle.encode("ascii")}).astype(np.bool_)
    return mask


class Source(Protocol):
    """A list of items; ``name`` tells a person, and the ledger, which; ``made_at`` since when, 0 where that is not told."""

    @property
    def name(self) -> str: ...

    @property
    def made_at(self) -> float: ...

    def items(self) -> Iterator[Item]:
        """Every item, once, in an order that does not change."""
        ...
