"""Overlapping tiles of an image, and how what was found in each becomes masks of the whole, every thing once.

A thing that a seam cuts is seen by both tiles, and is one thing where they agree on what both see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from backend.values.masks import Masks, MaskSet, RunLengths, best_first, overlaps, united
from prompts.geometry import BoolArray, PixelBox, Size
from prompts.kinds import KeyedImage

OVERLAP = 0.25
"""The share of a tile that the next one sees, too."""


WORTH_IT = 1.5
"""How many times a tile an image is long at least; smaller ones are seen as a whole alone."""


AGREES = 0.5
"""The least IoU, in what two tiles both see, of the halves of one thing."""


CELL = 512
"""The side of a cell of the grid in which pieces near to each other are looked up."""
KNOWN = 0.6
"""The share of a thing that lies in one of the same name, from which on it was found already."""


NOTHING_LOGIT = -12.0


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of an image: its upper left pixel ``(x, y)`` and its size."""

    x: int
    y: int
    size: Size

    @property
    def box(self) -> PixelBox:
        return self.x, self.y, self.x + self.size.width, self.y + self.size.height

    def of(self, image: KeyedImage) -> KeyedImage:
        """The tile's pixels, with a key of their own."""
        x0, y0, x1, y1 = self.box
        return KeyedImage(image.pixels[y0:y1, x0:x1], f"{image.key}-{x0}-{y0}-{self.size.width}x{self.size.height}")

    @classmethod
    def of_box(cls, box: PixelBox) -> Tile:
        """The part that a box holds."""
        return cls(box[0], box[1], Size(box[3] - box[1], box[2] - box[0]))

    def cuts(self, box: PixelBox, whole: Size) -> bool:
        """Whether a box of the image reaches a side of the tile beyond which the image goes on."""
        x0, y0, x1, y1 = self.box
        across = (box[0] <= x0 > 0) or (box[2] >= x1 < whole.width)
        return across or (box[1] <= y0 > 0) or (box[3] >= y1 < whole.height)


def tiles_of(size: Size, side: int, overlap: int) -> list[Tile]:
    """Tiles of at most ``side`` pixels, row by row, evenly spread, each at least ``overlap`` pixels over its neighbours."""
    down, across = _starts(size.height, side, overlap), _starts(size.width, side, overlap)
    extent = Size(min(side, size.height), min(side, size.width))
    return [Tile(x, y, extent) for y in down for x in across]


def _starts(length: int, side: int, overlap: int) -> list[int]:
    count = 1 + max(0, -(-(length - side) // (side - overlap)))
    return [round(start) for start in np.linspace(0, max(0, length - side), count).tolist()]


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A mask of one tile: where the tile lies, and a row of what was found on it."""

    tile: Tile
    row: MaskSet

    @property
    def runs(self) -> RunLengths:
        return self.row.masks.runs[0]

    @property
    def box(self) -> PixelBox:
        """Around the mask, in pixels of the whole image."""
        x0, y0, x1, y1 = self.runs.box or (0, 0, 0, 0)
        return self.tile.x + x0, self.tile.y + y0, self.tile.x + x1, self.tile.y + y1

    def within(self, box: PixelBox) -> BoolArray:
        """The mask in a part of the image; empty outside the tile."""
        (x0, y0, x1, y1), (left, top, right, bottom) = self.box, box
        part = np.zeros((bottom - top, right - left), np.bool_)
        low, high = (max(x0, left), max(y0, top)), (min(x1, right), min(y1, bottom))
        if low[0] < high[0] and low[1] < high[1]:
            inside = (slice(low[1] - y0, high[1] - y0), slice(low[0] - x0, high[0] - x0))
            part[low[1] - top : high[1] - top, low[0] - left : high[0] - left] = self.runs.window()[1][inside]
        return part

    def is_cut(self, size: Size) -> bool:
        """Whether the mask reaches a side of its tile beyond which the image goes on."""
        return self.tile.cuts(self.box, size)

    def is_known(self, others: Sequence[Piece]) -> bool:
        """Whether most of it lies in another piece of its name."""
        mine = self.within(self.box)
        same = (each for each in others if each.row.labels == self.row.labels and _shared(each.box, self.box))
        return any((mine & each.within(self.box)).sum() >= KNOWN * mine.sum() for each in same)

    def settles(self, other: Piece, cut: Sequence[Piece]) -> bool:
        """Whether it takes the place of another piece of its name that it is surer of: its tile saw all of that, or it lies in
        that, as far as both tiles show it, and ends, as none of what is ``cut`` in its tile goes on in the other piece.
        """
        if self.row.scores[0] < other.row.scores[0] or not other.is_of(self):
            return False
        (x0, y0, x1, y1), (left, top, right, bottom) = other.box, self.tile.box
        saw_all = left <= x0 and top <= y0 and x1 <= right and y1 <= bottom
        if saw_all or (both := _shared(self.box, other.tile.box)) is None:
            return saw_all
        mine = self.within(both)
        lies_in_it = (mine & other.within(both)).sum() >= KNOWN * mine.sum()
        return bool(lies_in_it) and not any(each.is_of(other) for each in cut)

    def is_of(self, other: Piece) -> bool:
        """Whether it has the name and some of the pixels of another piece."""
        named = self.row.labels == other.row.labels and _shared(self.box, other.box) is not None
        return named and bool((self.within(self.box) & other.within(self.box)).any())

    def placed(self, size: Size) -> RunLengths:
        """On the whole image."""
        (rows, columns), window = self.runs.window()
        return RunLengths.placed(window, (self.tile.x + columns.start, self.tile.y + rows.start), size)


def pieces_of(tile: Tile, masks: MaskSet) -> list[Piece]:
    """What was found on a tile, row by row."""
    return [Piece(tile, masks[[row]]) for row in range(len(masks))]


def settled(found: Sequence[Piece], closer: Sequence[Piece], size: Size) -> list[Piece]:
    """What tiles and closer looks at parts of them gave: a closer look takes the place of what it saw all of, or the end of,
    and is surer of, and adds what is not known. What it cuts itself it does not add.
    """
    by_place: dict[tuple[int, int], list[Piece]] = {}
    cut: dict[Tile, list[Piece]] = {}
    for each in closer:
        if each.is_cut(size):
            cut.setdefault(each.tile, []).append(each)
            continue
        for place in _cells(each.tile.box):
            by_place.setdefault(place, []).append(each)

    def near(piece: Piece) -> Iterator[Piece]:
        return (each for place in _cells(piece.box) for each in by_place.get(place, ()))

    kept = [piece for piece in found if not any(each.settles(piece, cut.get(each.tile, ())) for each in near(piece))]
    known = {id(each) for piece in kept for each in near(piece) if each.is_known([piece])}
    return [*kept, *(each for each in closer if id(each) not in known and each not in cut.get(each.tile, ()))]


def _cells(box: PixelBox) -> Iterator[tuple[int, int]]:
    """The cells of a coarse grid that a box lies in."""
    for y in range(box[1] // CELL, -(-box[3] // CELL)):
        for x in range(box[0] // CELL, -(-box[2] // CELL)):
            yield x, y


def things_of(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """The pieces of each thing, the surest first: those of one name from different tiles that agree on what both tiles see."""
    things: dict[int, list[Piece]] = {}
    for place, root in enumerate(_roots(pieces)):
        things.setdefault(root, []).append(pieces[place])
    return [[same[k] for k in best_first(np.array([piece.row.scores[0] for piece in same]))] for same in things.values()]


def whole_things(things: Sequence[Sequence[Piece]], size: Size) -> MaskSet:
    """Things on the whole image, each under the score and the name of its surest piece, whose logits say nothing there."""
    no_logits = np.zeros((1, 1, 1), np.float16)
    runs = [united([piece.placed(size) for piece in same]) for same in things]
    rows = [
        replace(same[0].row, masks=Masks(size, (each,)), low_res_logits=no_logits)
        for same, each in zip(things, runs, strict=True)
    ]
    return MaskSet.concatenate(rows, size)


def _roots(pieces: Sequence[Piece]) -> list[int]:
    """For each piece the first of those that show the same thing."""
    root = list(range(len(pieces)))

    def find(place: int) -> int:
        while root[place] != place:
            root[place] = root[root[place]]
            place = root[place]
        return place

    by_tile: dict[Tile, list[int]] = {}
    for place, piece in enumerate(pieces):
        by_tile.setdefault(piece.tile, []).append(place)
    for tile, other in _neighbours(by_tile):
        if (shared := _shared(tile.box, other.box)) is not None:
            for one, two in _same(pieces, by_tile[tile], by_tile[other], shared):
                low, high = sorted((find(one), find(two)))
                root[high] = low
    return [find(place) for place in range(len(pieces))]


def _neighbours(tiles: Iterable[Tile]) -> Iterator[tuple[Tile, Tile]]:
    """The pairs of tiles that share rows of the image: of thousands of tiles each has few."""
    ordered = sorted(tiles, key=lambda tile: tile.box[1])
    tallest = max((tile.size.height for tile in ordered), default=0)
    for k, tile in enumerate(ordered):
        for other in (ordered[place] for place in range(k - 1, -1, -1)):
            if other.box[1] + tallest <= tile.box[1]:
                break
            yield tile, other


def _shared(one: PixelBox, two: PixelBox) -> PixelBox | None:
    x0, y0 = max(one[0], two[0]), max(one[1], two[1])
    x1, y1 = min(one[2], two[2]), min(one[3], two[3])
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _same(pieces: Sequence[Piece], here: list[int], there: list[int], shared: PixelBox) -> Iterator[tuple[int, int]]:
    """The pairs of two tiles' pieces that agree in what the tiles share."""
    one = {place: pieces[place].within(shared) for place in here if _shared(pieces[place].box, shared)}
    two = {place: pieces[place].within(shared) for place in there if _shared(pieces[place].box, shared)}
    for first, mask in one.items():
        for second, other in two.items():
            if pieces[first].row.labels == pieces[second].row.labels:
                both, either = int((mask & other).sum()), int((mask | other).sum())
                if either and both >= AGREES * either:
                    yield first, second


def with_tiles(whole: MaskSet, image: KeyedImage, side: int, find: Callable[[KeyedImage], MaskSet]) -> MaskSet:
    """What was found on an image, and what ``find`` finds besides on its tiles of ``side`` pixels; nothing besides where the
    whole is enough.

    An engine sees an image at a fixed size, so that what is small on a large one vanishes; in a tile it does not (slicing aided
    inference, Akyon et al. 2022). What a seam cuts and one tile alone saw is left to the whole image.
    """
    if side <= 0 or max(image.size.height, image.size.width) < WORTH_IT * side:
        return whole
    tiles = tiles_of(image.size, side, round(OVERLAP * side))
    return joined(whole, [piece for tile in tiles for piece in pieces_of(tile, find(tile.of(image)))])


def joined(whole: MaskSet, pieces: Sequence[Piece]) -> MaskSet:
    """What the whole image and its tiles gave, in the order of the whole and then of the tiles, every thing once."""
    things = [same for same in things_of(pieces) if len(same) > 1 or not same[0].is_cut(whole.size)]
    if not things:
        return whole
    logits = np.stack([_logits_on_whole(same[0], whole) for same in things])
    return _without_known(whole, replace(whole_things(things, whole.size), low_res_logits=logits))


def _logits_on_whole(piece: Piece, whole: MaskSet) -> NDArray[np.float16]:
    """A piece's low-resolution logits where they lie on those of the whole image."""
    logits, (x0, y0, x1, y1) = piece.row.low_res_logits[0], piece.tile.box
    height, width = whole.low_res_logits.shape[1:] if len(whole) else logits.shape
    result = np.full((height, width), NOTHING_LOGIT, np.float16)
    across, down = width / whole.size.width, height / whole.size.height
    left, top = min(int(x0 * across), width - 1), min(int(y0 * down), height - 1)
    right, bottom = min(max(left + 1, round(x1 * across)), width), min(max(top + 1, round(y1 * down)), height)
    part = cv2.resize(logits.astype(np.float32), (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    result[top:bottom, left:right] = part
    return result


def _without_known(whole: MaskSet, things: MaskSet) -> MaskSet:
    """The whole image's rows, then the things that do not lie in one of them of the same name."""
    if not len(things) or not len(whole):
        return MaskSet.concatenate([whole, things], whole.size)
    _, inside = overlaps(Masks(whole.size, things.masks.runs + whole.masks.runs))
    same = np.array([[mine == theirs for theirs in whole.labels] for mine in things.labels])
    new = ~((inside[: len(things), len(things) :] >= KNOWN) & same).any(axis=1)
    return MaskSet.concatenate([whole, things[new]], whole.size)
