"""What surrounds things, which hardly a mask shows: segments of one look, and which of them are sky, grass, trees and the like.

Segments are those of Felzenszwalb & Huttenlocher 2004. Names are told by rules of colour, texture and place, which are right
most of the time: looked at, about nine of ten skies are, two of three meadows and trees, and, by what is beside them, four of
five roads, three of four floors and walls, and three of five waters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import felzenszwalb

from prompts.geometry import BoolArray
from train.data import Photo

SOURCES = ("imagenet_samples", "caltech101_natural", "coco_mini", "coco_person", "ccp_clothing", "imagenet_grabcut")
"""Sources of photos with something around things."""
SIDE = 256
LEAST_AROUND, MOST_AROUND, MOST_TAKEN = 0.06, 0.7, 0.3
"""How much of a photo a segment of what surrounds things covers, and how much of it things with masks may take."""
SKY, GRASS, TREE = 241, 242, 243
NAMES = {SKY: "sky", GRASS: "grass", TREE: "tree"}
"""The mask ids of scenery, which no source uses, and its names."""
ROAD, WATER, FLOOR, WALL = 244, 245, 246, 247
GROUNDS = {ROAD: "road", WATER: "water", FLOOR: "floor", WALL: "wall"}
"""The same of what things stand on or before; too often wrong to be asked of a network, but not to be averaged."""
EVERY = {**NAMES, **GROUNDS}
STREET = {
    "car", "bus", "truck", "motorcycle", "traffic light", "stop sign", "parking meter", "beach wagon", "cab", "limousine",
    "minibus", "minivan", "motor scooter", "moving van", "police van", "sports car", "tow truck", "trailer truck",
    "trolleybus", "convertible", "jeep", "pickup", "ambulance", "fire engine", "garbage truck", "school bus", "street sign",
    "moped", "streetcar",
}  # fmt: skip
SHORE = {
    "boat", "surfboard", "catamaran", "speedboat", "lakeside", "seashore", "drake", "pelican", "white stork", "american egret",
    "yawl", "trimaran", "schooner", "gondola", "fireboat", "liner", "container ship", "killer whale", "great white shark",
    "grey whale", "red-breasted merganser", "goose", "black swan", "american coot", "sea lion", "breakwater", "dock",
    "lifeboat", "paddle", "albatross", "king penguin", "wreck", "submarine", "promontory",
}  # fmt: skip
ROOM = {"bed", "couch", "tv", "refrigerator", "oven", "sink", "dining table", "microwave", "laptop", "chair"}
"""What usually has a road, water, or floor and walls about it."""
LEAST_GROUND = 0.05
LEAST_SHOWN = 0.02
LEAST_BLUE_OR_BRIGHT, LEAST_GREEN = 0.03, 0.02
"""The shares of a photo below which it shows no sky, and neither grass nor trees."""


def surroundings(photo: Photo) -> Photo | None:
    """A photo whose objects are what surrounds things, without names: sky, grass, road and walls. They are segments that reach
    the photo's rim, less the things that have masks; None where there is none.
    """
    segments = _segments(_small(photo), 400, 1.0, 150)
    ids, taken = np.zeros(photo.ids.shape, np.uint8), photo.ids > 0
    rim = np.concatenate([segments[[0, -1]].ravel(), segments[:, [0, -1]].ravel()])
    for number, key in enumerate(np.unique(rim), start=1):
        mask = cv2.resize((segments == key).astype(np.float32), ids.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
        if LEAST_AROUND <= mask.mean() <= MOST_AROUND and (mask & taken).sum() <= MOST_TAKEN * mask.sum():
            ids[mask & ~taken] = number
    return replace(photo, row=replace(photo.row, names={}, kind="instance"), ids=ids) if ids.any() else None


def with_scenery(photo: Photo) -> Photo:
    """A photo that also says where sky, grass and trees are, and which of them are absent; as it was where nothing is told of
    them. Of a photo of which only the class was known, scenery is all that has names.
    """
    small = _small(photo)
    colours = _Colours.of(small)
    told, unsure = _told(_segments(small, 250, 0.8, 100), colours)
    ids = cv2.resize(told, photo.ids.shape[::-1], interpolation=cv2.INTER_NEAREST)
    ids[photo.ids > 0] = 0
    there = {key for key in NAMES if (ids == key).mean() > LEAST_SHOWN and NAMES[key] not in photo.row.names.values()}
    absent = {*photo.absent, *colours.absent()} - {NAMES[key] for key in there}
    if not there and (absent == set(photo.absent) or not photo.row.mask):
        return photo
    names = dict(photo.row.names) if photo.row.mask else {}
    names |= {key: NAMES[key] for key in there}
    doubtful = there & unsure | (there - {SKY} if len((there | unsure) - {SKY}) > 1 else set())
    row = replace(
        photo.row,
        names=names,
        incomplete=photo.row.incomplete | {NAMES[key] for key in doubtful},
        mask=photo.row.mask or photo.row.image,
        kind=photo.row.kind if photo.row.mask else "semantic",
    )
    shown = np.where(np.isin(ids, list(there)), ids, photo.ids).astype(np.uint8)
    return replace(photo, row=row, ids=shown, absent=tuple(sorted(absent - set(names.values()))))


def told(photos: Sequence[Photo]) -> list[Photo]:
    """Photos with their scenery; those of which only the class was known stay beside what shows some."""
    found = []
    for photo in photos:
        shown = with_scenery(photo) if photo.row.source in SOURCES else photo
        found += [shown] if shown is photo or photo.row.mask else [photo, shown]
    return found


def ground(photo: Photo) -> Photo | None:
    """A photo whose only objects are the road, water, floor or wall about things that are usually there; None without any."""
    company = set(photo.row.names.values())
    keys = [ROAD] * bool(company & STREET) + [WATER] * bool(company & SHORE) + [FLOOR, WALL] * bool(company & ROOM)
    if not keys:
        return None
    small, taken = _small(photo), photo.ids > 0
    segments, colours = _segments(small, 250, 0.8, 100), _Colours.of(small)
    there = cv2.resize(taken.astype(np.uint8), segments.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    told, _ = _told(segments, colours)
    ids = np.zeros(photo.ids.shape, np.uint8)
    for key in keys:
        shown = np.zeros(segments.shape, np.uint8)
        for number in range(int(segments.max()) + 1):
            mask = segments == number
            if not told[mask].any() and (mask & there).sum() <= MOST_TAKEN * mask.sum() and _is_ground(key, mask, colours):
                shown |= mask
        if shown.mean() > LEAST_GROUND:
            ids[(cv2.resize(shown, ids.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0) & ~taken & (ids == 0)] = key
    names = {key: GROUNDS[key] for key in keys if (ids == key).any()}
    return replace(photo, row=replace(photo.row, names=names, incomplete=frozenset()), ids=ids) if names else None


def _is_ground(key: int, mask: BoolArray, colours: _Colours) -> bool:
    """Whether a segment ``(h, w)`` looks like and lies where a kind of ground does, for all that its colour tells."""
    rows = np.arange(len(mask))[:, None] / len(mask)
    area, top, bottom, height = mask.mean(), mask[0].mean(), mask[-1].mean(), (mask * rows).sum() / mask.sum()
    if colours.rough[mask].mean() > 9:
        return False
    below = top == 0 and height > 0.55 and bottom > 0.15
    vivid, value = colours.saturation[mask].mean(), colours.value[mask].mean()
    looks = {
        ROAD: below and area > 0.04 and vivid < 0.25 and 0.15 < value < 0.85,
        WATER: below and area > 0.06 and (colours.blue[mask].mean() > 0.4 or vivid < 0.35),
        FLOOR: below and area > 0.06 and height > 0.7 and bottom > 0.3,
        WALL: area > 0.08 and bottom == 0 and top > 0.2 and height < 0.42 and vivid < 0.5,
    }
    return bool(looks[key])


@dataclass(frozen=True, slots=True)
class _Colours:
    """Where a small photo is blue, bright and green ``(h, w)``, its saturation and value in 0..1, and how rough it is."""

    blue: BoolArray
    bright: BoolArray
    green: BoolArray
    saturation: NDArray[np.float32]
    value: NDArray[np.float32]
    rough: NDArray[np.float32]

    @classmethod
    def of(cls, small: NDArray[np.uint8]) -> _Colours:
        hue, saturation, value = cv2.split(cv2.cvtColor(_even(small), cv2.COLOR_RGB2HSV_FULL).astype(np.float32) / 255)
        hue *= 360
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
        return cls(
            blue=(hue > 185) & (hue < 255) & (saturation > 0.12) & (value > 0.35),
            bright=(value > 0.75) & (saturation < 0.25),
            green=(hue > 55) & (hue < 165) & (saturation > 0.18) & (value > 0.12),
            saturation=saturation,
            value=value,
            rough=np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 2)),
        )

    def absent(self) -> set[str]:
        """The scenery that no colour speaks for."""
        upper = self.blue[: len(self.blue) * 3 // 5] | self.bright[: len(self.blue) * 3 // 5]
        no_sky = upper.sum() < LEAST_BLUE_OR_BRIGHT * self.blue.size
        return ({"sky"} if no_sky else set()) | ({"grass", "tree"} if self.green.mean() < LEAST_GREEN else set())


def _told(segments: NDArray[np.int64], colours: _Colours) -> tuple[NDArray[np.uint8], set[int]]:
    """The scenery ``(h, w)`` that segments are, 0 where none, and what of it there may be more of."""
    told, unsure = np.zeros(segments.shape, np.uint8), set[int]()
    rows = np.arange(len(segments))[:, None] / len(segments)
    for key in range(int(segments.max()) + 1):
        mask = segments == key
        area, top, bottom, height = mask.mean(), mask[0].mean(), mask[-1].mean(), (mask * rows).sum() / mask.sum()
        blue, bright, green, rough = (
            each[mask].mean() for each in (colours.blue, colours.bright, colours.green, colours.rough)
        )
        if area > 0.04 and top > 0.25 and bottom < 0.02 and height < 0.42 and rough < 5 and blue > 0.7:
            told[mask] = SKY
        elif top > 0.05 and (blue > 0.4 or bright > 0.6) and rough < 8:
            unsure.add(SKY)
        elif area > 0.08 and green > 0.75 and bottom > 0.3 and top < 0.01 and height > 0.6 and 2.5 < rough < 22:
            told[mask] = GRASS
        elif area > 0.05 and green > 0.65 and rough > 8 and bottom < 0.1 and height < 0.5:
            told[mask] = TREE
        elif green > 0.4:
            unsure |= {GRASS, TREE}
    return told, unsure


def _small(photo: Photo) -> NDArray[np.uint8]:
    factor = SIDE / max(photo.ids.shape)
    return np.asarray(cv2.resize(photo.image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8)


def _even(small: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.bilateralFilter(small, 9, 30, 9), np.uint8)


def _segments(small: NDArray[np.uint8], scale: float, sigma: float, least: int) -> NDArray[np.int64]:
    return np.asarray(felzenszwalb(_even(small), scale=scale, sigma=sigma, min_size=least))
