"""Questions about images too large to be held whole: tiles for what may be anywhere, a window for what is clicked or boxed.

Tiles overlap, so that an object smaller than the overlap lies whole in one of them. What two tiles see of one object agrees in
their overlap, by which it is known and becomes one mask.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from backend.images.limits import Box, LargeImage
from backend.values.errors import MaskloomError, RequestError
from backend.values.masks import Masks, MaskSet, RunLengths, best_first
from backend.values.session import ForPrompts, Question, Round
from prompts.geometry import BoolArray, FloatArray, Size, mask_box
from prompts.kinds import (
    BoxPrompt,
    Image,
    KeyedImage,
    MaskPrompt,
    PointPrompt,
    PolygonPrompt,
    Prompt,
    PromptSet,
    ReferencePrompt,
    ScribblePrompt,
)

log = logging.getLogger(__name__)

TILE = 768
OVERLAP = 128
WINDOW = 1024
"""The side of a window around clicks; around a box it is larger, up to LARGEST_WINDOW pixels that are kept of it."""
LARGEST_WINDOW = 2048
SNAP = 256
"""Windows begin at multiples of this, so that the next click nearby finds the same one encoded."""
SAME_IN_OVERLAP = 0.5
"""The IoU within the overlap of two tiles above which two masks show one object."""
FLAT = 3
"""A tile whose values differ by no more holds nothing that could be told apart."""
FEW = 32
AHEAD = 2
"""So many tiles are read before they are looked at."""
TELL_S = 10.0
CLOSER = 160
"""The side of the window that a place is looked at closer in: what is 40 pixels large fills a quarter of it across."""
CLOSER_SNAP = 16
MOST_CLOSER = 3
"""So many places of a tile are looked at closer."""
KNOWN = 0.6
"""The share of a thing that lies in one of the same name, from which on it was found already."""
Outstanding = Callable[[Question], FloatArray]
Answer = Callable[[Question], Round | MaskloomError]


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """A mask of one tile: the tile's place, and a row of what was found on it."""

    tile: Box
    row: MaskSet

    @property
    def runs(self) -> RunLengths:
        return self.row.masks.runs[0]

    @property
    def box(self) -> Box:
        """Around the mask, in pixels of the whole image."""
        x0, y0, x1, y1 = self.runs.box or (0, 0, 0, 0)
        return self.tile[0] + x0, self.tile[1] + y0, self.tile[0] + x1, self.tile[1] + y1

    def is_cut(self, size: Size) -> bool:
        """Whether the mask reaches a side of its window beyond which the image goes on."""
        (x0, y0, x1, y1), (left, top, right, bottom) = self.box, self.tile
        across = (x0 <= left > 0) or (x1 >= right < size.width)
        return across or (y0 <= top > 0) or (y1 >= bottom < size.height)

    def is_known(self, others: Sequence[_Piece]) -> bool:
        """Whether most of it lies in another piece of its name."""
        mine = self.within(self.box)
        same = (each for each in others if each.row.labels == self.row.labels and _shared(each.box, self.box))
        return any((mine & each.within(self.box)).sum() >= KNOWN * mine.sum() for each in same)

    def within(self, box: Box) -> BoolArray:
        """The mask in a part of the tile, which is given in pixels of the whole image."""
        (x0, y0, x1, y1), (left, top, right, bottom) = self.box, box
        part = np.zeros((bottom - top, right - left), np.bool_)
        low, high = (max(x0, left), max(y0, top)), (min(x1, right), min(y1, bottom))
        if low[0] < high[0] and low[1] < high[1]:
            _, window = self.runs.window()
            part[low[1] - top : high[1] - top, low[0] - left : high[0] - left] = window[
                low[1] - y0 : high[1] - y0, low[0] - x0 : high[0] - x0
            ]
        return part

    def placed(self, size: Size) -> RunLengths:
        """On the whole image."""
        (rows, columns), window = self.runs.window()
        return RunLengths.placed(window, (self.tile[0] + columns.start, self.tile[1] + rows.start), size)


def answer_large(question: Question, image: LargeImage, answer: Answer, outstanding: Outstanding) -> Round:
    """The round of a question about a large image, with ``answer`` for each window of it. Where places of a tile are
    ``outstanding``, they are looked at closer.

    Raises the error of a window that cannot be answered, and RequestError for prompts that no window holds.
    """
    if isinstance(question, ForPrompts) and question.prompts.drawn:
        return _in_window(question, image, answer)
    return _in_tiles(question, image, answer, outstanding)


def _in_window(question: ForPrompts, image: LargeImage, answer: Answer) -> Round:
    box, step = window_around(question.prompts.drawn, image.size)
    window = image.window(box, step)
    moved = PromptSet(tuple(_moved(prompt, box, step, image) for prompt in question.prompts.prompts))
    done = _checked(answer(replace(question, image=window, prompts=moved, memory=None)))
    runs = tuple(RunLengths.placed(_enlarged(mask, box, step), box[:2], image.size) for mask in done.masks.masks)
    return Round(question.prompts, replace(done.masks, masks=Masks(image.size, runs)))


def _enlarged(mask: BoolArray, box: Box, step: int) -> BoolArray:
    """A mask of a shrunk window in the window's own pixels."""
    if step == 1:
        return mask
    return mask.repeat(step, axis=0).repeat(step, axis=1)[: box[3] - box[1], : box[2] - box[0]]


def window_around(prompts: Sequence[Prompt], size: Size) -> tuple[Box, int]:
    """The window that prompts are seen in, with room around them, and the step by which it is shrunk to be held."""
    boxes = np.array([_extent(prompt) for prompt in prompts], np.float64)
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    side = np.maximum(WINDOW, np.ceil(2 * (high - low) / SNAP) * SNAP).astype(int)
    limits = np.array([size.width, size.height])
    side = np.minimum(side, limits)
    start = np.round((np.floor(low + high) / 2 - side / 2) / SNAP).astype(int) * SNAP
    start = np.clip(start, 0, limits - side)
    x0, y0 = start.tolist()
    width, height = side.tolist()
    return (x0, y0, x0 + width, y0 + height), -(-max(width, height) // LARGEST_WINDOW)


def _extent(prompt: Prompt) -> tuple[float, float, float, float]:
    match prompt:
        case PointPrompt():
            return (*prompt.xy, *prompt.xy)
        case BoxPrompt():
            return prompt.xyxy
        case PolygonPrompt():
            return (*prompt.points.min(axis=0).tolist(), *prompt.points.max(axis=0).tolist())
        case MaskPrompt() | ScribblePrompt():
            return mask_box(prompt.mask) or (0, 0, 1, 1)
        case _:
            raise RequestError(f"a {type(prompt).__name__} has no place on a large image")


def _moved(prompt: Prompt, box: Box, step: int, image: LargeImage) -> Prompt:
    """A prompt in the pixels of a window."""
    x0, y0, x1, y1 = box
    match prompt:
        case PointPrompt():
            return replace(prompt, xy=((prompt.xy[0] - x0) / step, (prompt.xy[1] - y0) / step))
        case BoxPrompt():
            left, top, right, bottom = prompt.xyxy
            return replace(prompt, xyxy=((left - x0) / step, (top - y0) / step, (right - x0) / step, (bottom - y0) / step))
        case PolygonPrompt():
            return replace(prompt, points=(prompt.points - (x0, y0)) / step)
        case MaskPrompt() | ScribblePrompt():
            return replace(prompt, mask=prompt.mask[y0:y1:step, x0:x1:step])
        case ReferencePrompt():
            return _shown_small(prompt)
        case _:
            return prompt


def _shown_small(prompt: ReferencePrompt) -> ReferencePrompt:
    """An example on a large image, as a window of that image."""
    if not isinstance(prompt.image, LargeImage):
        return prompt
    box, step = window_around((MaskPrompt(prompt.mask),), prompt.image.size)
    mask = prompt.mask[box[1] : box[3] : step, box[0] : box[2] : step]
    return replace(prompt, image=prompt.image.window(box, step), mask=mask)


def _in_tiles(question: Question, image: LargeImage, answer: Answer, outstanding: Outstanding) -> Round:
    """What every tile holds, as one."""
    if isinstance(question, ForPrompts):
        prompts = tuple(_shown_small(each) if isinstance(each, ReferencePrompt) else each for each in question.prompts.prompts)
        question = replace(question, prompts=PromptSet(prompts), memory=None)
    pieces: list[_Piece] = []
    seen: set[Box] = set()
    for tile, window in _read_ahead(image):
        if not is_flat(window.pixels):
            asked = replace(question, image=window)
            found = _pieces_of(tile, answer(asked))
            closer = [box for box in closer_windows(tile, outstanding(asked), image.size) if box not in seen]
            seen.update(closer)
            near = [each for box in closer for each in _pieces_of(box, answer(replace(question, image=image.window(box))))]
            pieces += [*found, *(each for each in near if not each.is_cut(image.size) and not each.is_known(found))]
    return Round(question.prompts if isinstance(question, ForPrompts) else PromptSet(), merged(pieces, image.size))


def _pieces_of(tile: Box, done: Round | MaskloomError) -> list[_Piece]:
    """What was found in a tile, without its logits, which say nothing about the whole."""
    found = _checked(done).masks
    found = replace(found, low_res_logits=np.zeros((len(found), 1, 1), np.float16))
    return [_Piece(tile, found[[row]]) for row in range(len(found))]


def closer_windows(tile: Box, places: FloatArray, size: Size) -> list[Box]:
    """The windows around the first few places ``(N, 2)`` of a tile, in pixels of the image, that no window before holds."""
    chosen: list[Box] = []
    for x, y in (places + tile[:2]).tolist():
        if len(chosen) < MOST_CLOSER and not any(box[0] <= x < box[2] and box[1] <= y < box[3] for box in chosen):
            left, top = (round((at - CLOSER / 2) / CLOSER_SNAP) * CLOSER_SNAP for at in (x, y))
            left, top = max(0, min(left, size.width - CLOSER)), max(0, min(top, size.height - CLOSER))
            chosen.append((left, top, min(left + CLOSER, size.width), min(top + CLOSER, size.height)))
    return chosen


def _read_ahead(image: LargeImage) -> Iterator[tuple[Box, KeyedImage]]:
    """Every tile with its pixels, which are read while those before it are looked at; the log says how far that is."""
    tiles, told = list(tiles_of(image.size)), time.monotonic()
    with ThreadPoolExecutor(1, "tiles") as reader:
        coming = deque(reader.submit(image.window, tile) for tile in tiles[:AHEAD])
        for place, tile in enumerate(tiles):
            if place + AHEAD < len(tiles):
                coming.append(reader.submit(image.window, tiles[place + AHEAD]))
            if time.monotonic() - told > TELL_S:
                told = time.monotonic()
                log.info("looked at %d of %d tiles of %d x %d pixels", place, len(tiles), image.size.width, image.size.height)
            yield tile, coming.popleft().result()


def tiles_of(size: Size) -> Iterator[Box]:
    """Tiles row by row, the last ones moved back so that they end with the image."""
    for y in _starts(size.height):
        for x in _starts(size.width):
            yield x, y, min(x + TILE, size.width), min(y + TILE, size.height)


def _starts(length: int) -> list[int]:
    if length <= TILE:
        return [0]
    return [*range(0, length - TILE, TILE - OVERLAP), length - TILE]


def is_flat(pixels: Image) -> bool:
    """Whether a tile ``(h, w, 3)`` has one colour; a few rows tell most that have not."""
    return all(_range_within(part) <= FLAT for part in (pixels[::FEW], pixels))


def _range_within(pixels: Image) -> int:
    """The largest difference of values in a channel; row by row first, which is quick."""
    rows = pixels.reshape(len(pixels), -1)
    high, low = (each.reshape(-1, 3) for each in (rows.max(axis=0), rows.min(axis=0)))
    return int((high.max(axis=0).astype(np.int16) - low.min(axis=0)).max())


def merged(pieces: Sequence[_Piece], size: Size) -> MaskSet:
    """The masks of all tiles, those of one object as one: under the score and the name of its best piece."""
    groups: dict[int, list[_Piece]] = {}
    for place, root in enumerate(_roots(pieces)):
        groups.setdefault(root, []).append(pieces[place])
    rows = []
    for same in groups.values():
        best = same[best_first(np.array([piece.row.scores[0] for piece in same], np.float32))[0]]
        runs = united([piece.placed(size) for piece in same], size)
        rows.append(replace(best.row, masks=Masks(size, (runs,))))
    return MaskSet.concatenate(rows, size)


def _roots(pieces: Sequence[_Piece]) -> list[int]:
    """For each piece the first of those that show the same object."""
    root = list(range(len(pieces)))

    def find(place: int) -> int:
        while root[place] != place:
            root[place] = root[root[place]]
            place = root[place]
        return place

    by_tile: dict[Box, list[int]] = {}
    for place, piece in enumerate(pieces):
        by_tile.setdefault(piece.tile, []).append(place)
    for tile, here in by_tile.items():
        for other, there in by_tile.items():
            if other > tile and (shared := _shared(tile, other)) is not None:
                for one, two in _same(pieces, here, there, shared):
                    low, high = sorted((find(one), find(two)))
                    root[high] = low
    return [find(place) for place in range(len(pieces))]


def _shared(tile: Box, other: Box) -> Box | None:
    x0, y0 = max(tile[0], other[0]), max(tile[1], other[1])
    x1, y1 = min(tile[2], other[2]), min(tile[3], other[3])
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _same(pieces: Sequence[_Piece], here: list[int], there: list[int], shared: Box) -> Iterator[tuple[int, int]]:
    """The pairs of two tiles' pieces that agree in what the tiles share."""
    one = {place: pieces[place].within(shared) for place in here if _shared(pieces[place].box, shared)}
    two = {place: pieces[place].within(shared) for place in there if _shared(pieces[place].box, shared)}
    for first, mask in one.items():
        for second, other in two.items():
            if pieces[first].row.labels == pieces[second].row.labels:
                both, either = int((mask & other).sum()), int((mask | other).sum())
                if either and both / either > SAME_IN_OVERLAP:
                    yield first, second


def united(runs: Sequence[RunLengths], size: Size) -> RunLengths:
    """The union of masks of one size, by their runs alone."""
    if len(runs) == 1:
        return runs[0]
    starts, ends = (np.concatenate([each.edges[side::2] for each in runs]).astype(np.int64) for side in (0, 1))
    order = np.argsort(starts, kind="stable")
    starts, reached = starts[order], np.maximum.accumulate(ends[order])
    is_first = np.ones(len(starts), np.bool_)
    is_first[1:] = starts[1:] > reached[:-1]
    last = np.append(np.flatnonzero(is_first)[1:] - 1, len(starts) - 1) if len(starts) else np.zeros(0, np.int64)
    edges = np.stack([starts[is_first], reached[last]], axis=1).ravel()
    return RunLengths(size, edges.astype(np.uint32))


def _checked(done: Round | MaskloomError) -> Round:
    if isinstance(done, MaskloomError):
        raise done
    return done
