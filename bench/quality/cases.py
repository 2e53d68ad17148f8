"""Which photos, objects, names and pairs are asked about: a fixed choice from the rows that were never trained on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np

from prompts.geometry import BoolArray
from train.crops import PLAIN
from train.data import CUTOUTS, VOID, Photo, Row
from train.held_out import NONCOMMERCIAL, SOURCES, is_reported

T = TypeVar("T")
VIDEO = "davis_dev"
LEAST_SHARE = 0.003
"""Objects below this share of the photo are not asked about by box or click."""
MOST_OBJECTS = 3
ABSENT = 4
STRANGERS = 5


@dataclass(frozen=True, slots=True, eq=False)
class Object:
    """One object of a photo: an instance, or the largest connected piece of a class."""

    photo: Photo
    mask: BoolArray

    @property
    def void(self) -> BoolArray:
        void: BoolArray = self.photo.ids == VOID
        return void


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A name asked of a photo, and its pixels; none of them where it is absent."""

    photo: Photo
    name: str
    mask: BoolArray


def objects_of(photos: Sequence[Photo], limit: int) -> list[Object]:
    """At most three objects a photo, the largest first, spread evenly over the sources; ``limit`` in all."""
    by_source: dict[str, list[Object]] = defaultdict(list)
    for photo in photos:
        if photo.row.source != VIDEO:
            by_source[photo.row.source] += _largest(photo)
    return spread(list(by_source.values()), limit)


def _largest(photo: Photo) -> list[Object]:
    counts = np.bincount(photo.ids.ravel(), minlength=256)
    keys = sorted((k for k in range(1, VOID) if counts[k]), key=lambda k: -counts[k])[:MOST_OBJECTS]
    masks = [photo.ids == key for key in keys]
    if photo.row.kind == "semantic":
        masks = [_largest_piece(mask) for mask in masks]
    return [Object(photo, mask) for mask in masks if mask.mean() >= LEAST_SHARE]


def strangers_of(photos: Sequence[Photo], limit: int) -> list[tuple[Photo, tuple[str, ...]]]:
    """Photos, each with five names that are certainly not there."""
    dice = np.random.default_rng(0)
    told = [photo for photo in photos if len(photo.absent) >= STRANGERS]
    chosen = [(photo, tuple(dice.permutation(np.array(photo.absent, object)).tolist()[:STRANGERS])) for photo in told]
    by_source: dict[str, list[tuple[Photo, tuple[str, ...]]]] = defaultdict(list)
    for photo, names in chosen:
        by_source[photo.row.source].append((photo, names))
    return spread(list(by_source.values()), limit)


def _largest_piece(mask: BoolArray) -> BoolArray:
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return np.asarray(pieces == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()))


def sets_of(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows to ask about, what generalises first: photos that show held-out names by which nothing was chosen, whole
    held-out sources, and the ``val`` split of the sources that weights are made with.
    """
    masked = [row for row in rows if row.mask and row.source != CUTOUTS]
    kept_out = NONCOMMERCIAL | SOURCES
    named = [row for row in masked if row.source not in {*kept_out, *PLAIN} and any(map(is_reported, row.names.values()))]
    return {
        "held-out names": named,
        "held-out sources": [row for row in masked if row.split == "val" and row.source in kept_out],
        "known sources": [row for row in masked if row.split == "val" and row.source not in kept_out],
    }


def names_of(photos: Sequence[Photo], limit: int) -> list[Asked]:
    """Every name whose instances are all in the mask, and four names a photo that are certainly absent."""
    by_source: dict[str, list[list[Asked]]] = defaultdict(list)
    for photo in photos:
        if photo.row.source == VIDEO or not photo.row.mask:
            continue
        dice = np.random.default_rng(len(by_source[photo.row.source]))
        absent = dice.permutation(np.array(photo.absent, object)).tolist()[:ABSENT]
        nothing = np.zeros(photo.ids.shape, np.bool_)
        asked = [Asked(photo, name, photo.name_mask(name)) for name in photo.text_names()]
        by_source[photo.row.source].append(asked + [Asked(photo, name, nothing) for name in absent])
    chosen = spread([groups for groups in by_source.values() if any(groups)], limit)
    return [asked for group in chosen for asked in group]


def shots_of(photos: Sequence[Photo], limit: int, shots: int = 1) -> list[tuple[Asked, ...]]:
    """Photos of one source that show the same name on more than 1 % of their area: so many references, and where to look."""
    by_name: dict[tuple[str, str], list[Asked]] = defaultdict(list)
    for photo in photos:
        if photo.row.mask and photo.row.source != VIDEO:
            for name in photo.text_names():
                mask = photo.name_mask(name)
                if mask.mean() > 0.01:
                    by_name[photo.row.source, name].append(Asked(photo, name, mask))
    chains = [[tuple(shown[k : k + shots + 1]) for k in range(len(shown) - shots)] for shown in by_name.values()]
    return spread(chains, limit)


def spread(groups: Sequence[Sequence[T]], limit: int) -> list[T]:
    """The first of each group, the second of each group, and so on, ``limit`` in all."""
    longest = max((len(group) for group in groups), default=0)
    return [group[k] for k in range(longest) for group in groups if k < len(group)][:limit]
