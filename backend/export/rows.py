"""What an export knows of one image: its name, its size, and its masks as COCO's run lengths; as one line of JSON."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pycocotools import mask as coco

from backend.images import SUFFIXES
from backend.values.masks import Region
from prompts.geometry import BoolArray, Size

_UNFIT = re.compile(r"[^\w.\-]+")
LONGEST_STEM = 100


@dataclass(frozen=True, slots=True)
class MaskRow:
    """One mask: its box is ``(x, y, width, height)`` in pixels, ``counts`` COCO's compressed run lengths."""

    label: str
    score: float
    area: int
    box: tuple[int, int, int, int]
    counts: str

    @classmethod
    def of(cls, region: Region) -> MaskRow:
        x0, y0, x1, y1 = region.runs.box or (0, 0, 0, 0)
        box = (x0, y0, x1 - x0, y1 - y0)
        return cls(region.label or "", region.score, region.runs.area, box, region.runs.coco_counts())

    def mask(self, size: Size) -> BoolArray:
        """The mask ``(H, W)``."""
        decoded: BoolArray = coco.decode({"size": [size.height, size.width], "counts": self.counts.encode("ascii")}) > 0
        return decoded


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image of a task with its submitted masks and, where they were asked for, those of a prediction. ``name`` is its file
    name in the export, which no other image has, not even with another ending.
    """

    name: str
    url: str
    task: int
    height: int
    width: int
    masks: tuple[MaskRow, ...]
    predicted: tuple[MaskRow, ...] = ()

    @property
    def size(self) -> Size:
        return Size(self.height, self.width)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> ImageRow:
        masks, predicted = (tuple(_mask_row(each) for each in found[key]) for key in ("masks", "predicted"))
        return cls(**{**found, "masks": masks, "predicted": predicted})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _mask_row(found: Mapping[str, Any]) -> MaskRow:
    return MaskRow(**{**found, "box": tuple(found["box"])})


@dataclass(slots=True)
class FileNames:
    """File names for images, by their addresses: those whose names are the same but for the ending get their key as well."""

    _shared: Counter[str] = field(default_factory=Counter)
    _taken: dict[str, str] = field(default_factory=dict)

    @classmethod
    def over(cls, urls: Iterable[str]) -> FileNames:
        """For all addresses of an export."""
        return cls(Counter(_stem_and_ending(url)[0].lower() for url in urls))

    def of(self, url: str, key: str) -> str:
        """The name of an image; ``key`` is that of its task and page."""
        stem, ending = _stem_and_ending(url)
        name = stem if stem and self._shared[stem.lower()] <= 1 else f"{stem or 'task'}-{key}"
        while self._taken.setdefault(name.lower(), key) != key:
            name += "_"
        return f"{name}{ending}"


def _stem_and_ending(url: str) -> tuple[str, str]:
    """The name of a file behind an address, fit for any disk, and its ending; no name for an image that lies in its address."""
    if url.startswith("data:"):
        return "", ".png"
    parts = urlsplit(url)
    inner = parse_qs(parts.query).get("d", [""])[0]
    path = PurePosixPath(inner or unquote(parts.path))
    ending = path.suffix.lower() if path.suffix.lower() in SUFFIXES else ""
    return _UNFIT.sub("_", path.stem if ending else path.name)[:LONGEST_STEM], ending
