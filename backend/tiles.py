"""Large images in overlapping tiles: where the tiles lie, and how what was found in each becomes masks of the whole image.

An engine sees an image at a fixed size, so that what is small on a large one vanishes; in a tile it does not (slicing aided
inference, Akyon et al. 2022). A thing that a seam cuts is seen by both tiles, and is one thing where they agree on what both
see; what a seam cuts and one tile alone saw is left to the whole image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from backend.values.masks import Masks, MaskSet, RunLengths, overlaps
from prompts.geometry import BoolArray, Size
from prompts.kinds import KeyedImage

OVERLAP = 0.25
"""The share of a tile that the next one sees, too."""
WORTH_IT = 1.5
"""How many times a tile an image is long at least; smaller ones are seen as a whole alone."""
AGREES = 0.5
"""The least IoU, in what two tiles both see, of the halves of one thing."""
KNOWN = 0.6
"""The share of a thing that lies in one of the same name, from which on it was found already."""
NOTHING_LOGIT = -12.0


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of an image: its upper left pixel ``(x, y)`` and its size."""

    x: int
    y: int
    size: Size

    def of(self, image: KeyedImage) -> KeyedImage:
        """The tile's pixels, with a key of their own."""
        pixels = image.pixels[self.y : self.y + self.size.height, self.x : self.x + self.size.width]
        return KeyedImage(pixels, f"{image.key}-{self.x}-{self.y}-{self.size.width}x{self.size.height}")

    def both(self, other: Tile) -> tuple[int, int, int, int]:
        """What two tiles both see ``(x0, y0, x1, y1)``; of no width or height where that is nothing."""
        x0, y0 = max(self.x, other.x), max(self.y, other.y)
        x1 = min(self.x + self.size.width, other.x + other.size.width)
        return x0, y0, max(x1, x0), max(min(self.y + self.size.height, other.y + other.size.height), y0)

    def cuts(self, box: tuple[int, int, int, int], whole: Size) -> bool:
        """Whether a box of the image reaches a side of the tile beyond which the image goes on."""
        right, bottom = self.x + self.size.width, self.y + self.size.height
        across = (box[0] <= self.x > 0) or (box[2] >= right < whole.width)
        return across or (box[1] <= self.y > 0) or (box[3] >= bottom < whole.height)


def tiles_of(size: Size, side: int) -> list[Tile]:
    """Tiles of at most ``side`` pixels, row by row, each with a share of its neighbours; none where the whole is enough."""
    if side <= 0 or max(size.height, size.width) < WORTH_IT * side:
        return []
    down, across = _starts(size.height, side), _starts(size.width, side)
    extent = Size(min(side, size.height), min(side, size.width))
    return [Tile(x, y, extent) for y in down for x in across]


def _starts(length: int, side: int) -> list[int]:
    if length <= side:
        return [0]
    count = 1 + int(np.ceil((length - side) / (side * (1 - OVERLAP))))
    return [round(start) for start in np.linspace(0, length - side, count).tolist()]


def with_tiles(whole: MaskSet, image: KeyedImage, side: int, find: Callable[[KeyedImage], MaskSet]) -> MaskSet:
    """What was found on an image, and what ``find`` finds besides on its tiles of ``side`` pixels."""
    tiles = tiles_of(image.size, side)
    return joined(whole, [(tile, find(tile.of(image))) for tile in tiles]) if tiles else whole


def joined(whole: MaskSet, found: Sequence[tuple[Tile, MaskSet]]) -> MaskSet:
    """What the whole image and its tiles gave, in the order of the whole and then of the tiles, every thing once."""
    size = whole.size
    rows = [(tile, row) for tile, masks in found for row in range(len(masks))]
    sets = {id(tile): masks for tile, masks in found}
    runs = [_placed(sets[id(tile)].masks[row], tile, size) for tile, row in rows]
    kept = MaskSet.concatenate([_on_whole(masks, tile, whole) for tile, masks in found], size)
    if not len(kept):
        return whole
    tiles = [tile for tile, _ in rows]
    groups = _groups(runs, tiles, kept.labels)
    best = [max(group, key=lambda k: float(kept.scores[k])) for group in groups]
    things = kept[best].with_masks([_union([runs[k] for k in group]) for group in groups])
    complete = [len(group) > 1 or not tiles[group[0]].cuts(_box(runs[group[0]]), size) for group in groups]
    return _without_known(whole, things[np.array(complete)])


def _groups(runs: Sequence[RunLengths], tiles: Sequence[Tile], labels: Sequence[str | None]) -> list[list[int]]:
    """The rows of each thing: those of one name from different tiles that agree on what both tiles see."""
    group = list(range(len(runs)))
    boxes = [_box(each) for each in runs]
    for k in range(len(runs)):
        for j in range(k):
            alike = labels[j] == labels[k] and tiles[j] is not tiles[k] and _meet(boxes[j], boxes[k])
            if alike and _agree(runs[j], runs[k], tiles[j].both(tiles[k])):
                old, new = group[k], group[j]
                group = [new if each == old else each for each in group]
    return [[k for k in range(len(runs)) if group[k] == each] for each in sorted(set(group))]


def _agree(a: RunLengths, b: RunLengths, seen: tuple[int, int, int, int]) -> bool:
    x0, y0, x1, y1 = seen
    first, second = (_part(each, (x0, y0, x1, y1)) for each in (a, b))
    either = int((first | second).sum())
    return either > 0 and int((first & second).sum()) >= AGREES * either


def _part(runs: RunLengths, box: tuple[int, int, int, int]) -> BoolArray:
    """The pixels of a mask inside a box."""
    x0, y0, x1, y1 = box
    (rows, columns), window = runs.window()
    part = np.zeros((y1 - y0, x1 - x0), np.bool_)
    top, left = max(rows.start, y0), max(columns.start, x0)
    bottom, right = min(rows.stop, y1), min(columns.stop, x1)
    if bottom > top and right > left:
        inside = window[top - rows.start : bottom - rows.start, left - columns.start : right - columns.start]
        part[top - y0 : bottom - y0, left - x0 : right - x0] = inside
    return part


def _meet(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _box(runs: RunLengths) -> tuple[int, int, int, int]:
    return runs.box or (0, 0, 0, 0)


def _placed(mask: BoolArray, tile: Tile, size: Size) -> RunLengths:
    return RunLengths.placed(mask, (tile.x, tile.y), size)


def _union(runs: Sequence[RunLengths]) -> BoolArray:
    return Masks(runs[0].size, tuple(runs)).union()


def _on_whole(masks: MaskSet, tile: Tile, whole: MaskSet) -> MaskSet:
    """The rows of a tile as rows of the whole image."""
    if not len(masks):
        return MaskSet.empty(whole.size)
    placed = [_placed(mask, tile, whole.size) for mask in masks.masks]
    logits = np.stack([_logits_on_whole(each, tile, whole) for each in masks.low_res_logits])
    return MaskSet(Masks(whole.size, tuple(placed)), masks.scores, masks.labels, logits, masks.embeddings)


def _logits_on_whole(logits: NDArray[np.float16], tile: Tile, whole: MaskSet) -> NDArray[np.float16]:
    """A tile's low-resolution logits where they lie on those of the whole image."""
    height, width = whole.low_res_logits.shape[1:] if len(whole) else logits.shape
    result = np.full((height, width), NOTHING_LOGIT, np.float16)
    across, down = width / whole.size.width, height / whole.size.height
    x0, y0 = min(int(tile.x * across), width - 1), min(int(tile.y * down), height - 1)
    x1, y1 = max(x0 + 1, round((tile.x + tile.size.width) * across)), max(y0 + 1, round((tile.y + tile.size.height) * down))
    part = cv2.resize(logits.astype(np.float32), (min(x1, width) - x0, min(y1, height) - y0), interpolation=cv2.INTER_AREA)
    result[y0 : min(y1, height), x0 : min(x1, width)] = part
    return result


def _without_known(whole: MaskSet, things: MaskSet) -> MaskSet:
    """The whole image's rows, then the things that do not lie in one of them of the same name."""
    if not len(things) or not len(whole):
        return MaskSet.concatenate([whole, things], whole.size)
    _, inside = overlaps(Masks(whole.size, things.masks.runs + whole.masks.runs))
    same = np.array([[mine == theirs for theirs in whole.labels] for mine in things.labels])
    new = ~((inside[: len(things), len(things) :] >= KNOWN) & same).any(axis=1)
    return MaskSet.concatenate([whole, things[new]], whole.size)
