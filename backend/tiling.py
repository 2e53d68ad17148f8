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
from dataclasses import replace

import numpy as np

from backend.images.limits import LargeImage
from backend.tiles import Piece, Tile, pieces_of, settled, things_of, tiles_of, whole_things
from backend.values.errors import MaskloomError, RequestError
from backend.values.masks import Masks, MaskSet, RunLengths, best_first
from backend.values.session import ForPrompts, Question, Round
from prompts.geometry import BoolArray, FloatArray, PixelBox, Size, mask_box
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
TILE_OVERLAP = 128
"""Tiles of images too large to be held: an object smaller than the overlap lies whole in one of them."""
WINDOW = 1024
"""The side of a window around clicks; around a box it is larger, up to LARGEST_WINDOW pixels that are kept of it."""
LARGEST_WINDOW = 2048
CLICKED = 256
"""The side of the window around clicks that is looked at first by engines that see small things only close by."""
SURE = 0.6
"""The score from which on that is the answer, where it shows a whole thing."""
SNAPS = 4
"""Windows begin at multiples of their least side by so many, so that the next click nearby finds the same one encoded."""
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
NOWHERE: FloatArray = np.zeros((0, 2))
Outstanding = Callable[[Question], FloatArray]
Answer = Callable[[Question], Round | MaskloomError]


def answer_large(question: Question, image: LargeImage, answer: Answer, outstanding: Outstanding | None) -> Round:
    """The round of a question about a large image, with ``answer`` for each window of it. Where places of a tile are
    ``outstanding``, and around clicks, it is looked closer; not at all by engines that have no need to, which is None.

    Raises the error of a window that cannot be answered, and RequestError for prompts that no window holds.
    """
    if not isinstance(question, ForPrompts) or not question.prompts.drawn:
        return _in_tiles(question, image, answer, outstanding)
    drawn = question.prompts.drawn
    are_clicks = all(isinstance(each, PointPrompt) for each in drawn)
    box, _ = window_around(drawn, image.size, CLICKED)
    if outstanding is not None and are_clicks and max(box[2] - box[0], box[3] - box[1]) <= CLICKED:
        return _around_clicks(question, image, answer, box)
    return _in_window(question, image, answer, *window_around(drawn, image.size))


def _around_clicks(question: ForPrompts, image: LargeImage, answer: Answer, box: PixelBox) -> Round:
    """What is whole in a box around clicks; where that is not sure, the surest of that and of what the usual window shows."""
    near, tile = _in_window(question, image, answer, box, 1), Tile.of_box(box)
    boxes = [runs.box or (0, 0, 0, 0) for runs in near.masks.masks.runs]
    whole = near.masks[[row for row, each in enumerate(boxes) if not tile.cuts(each, image.size)]]
    if question.alternatives == 1 and whole.scores.max(initial=0) >= SURE:
        return replace(near, masks=whole)
    found = _in_window(question, image, answer, *window_around(question.prompts.drawn, image.size)).masks
    both = MaskSet.concatenate([_without_logits(whole), _without_logits(found)], image.size)
    return replace(near, masks=both[best_first(both.scores)[: max(len(found), 1)]])


def _without_logits(masks: MaskSet) -> MaskSet:
    """Masks without their logits, which say nothing about a large image."""
    return replace(masks, low_res_logits=np.zeros((len(masks), 1, 1), np.float16))


def _in_window(question: ForPrompts, image: LargeImage, answer: Answer, box: PixelBox, step: int) -> Round:
    window = image.window(box, step)
    moved = PromptSet(tuple(_moved(prompt, box, step, image) for prompt in question.prompts.prompts))
    done = _checked(answer(replace(question, image=window, prompts=moved, memory=None)))
    runs = tuple(RunLengths.placed(_enlarged(mask, box, step), box[:2], image.size) for mask in done.masks.masks)
    return Round(question.prompts, replace(done.masks, masks=Masks(image.size, runs)))


def _enlarged(mask: BoolArray, box: PixelBox, step: int) -> BoolArray:
    """A mask of a shrunk window in the window's own pixels."""
    if step == 1:
        return mask
    return mask.repeat(step, axis=0).repeat(step, axis=1)[: box[3] - box[1], : box[2] - box[0]]


def window_around(prompts: Sequence[Prompt], size: Size, least: int = 0) -> tuple[PixelBox, int]:
    """The window that prompts are seen in, with room around them and ``least`` pixels a side (0: the usual number), and the
    step by which it is shrunk to be held.
    """
    least = least or WINDOW
    snap = least // SNAPS
    boxes = np.array([_extent(prompt) for prompt in prompts], np.float64)
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    side = np.maximum(least, np.ceil(2 * (high - low) / snap) * snap).astype(int)
    limits = np.array([size.width, size.height])
    side = np.minimum(side, limits)
    start = np.round((np.floor(low + high) / 2 - side / 2) / snap).astype(int) * snap
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


def _moved(prompt: Prompt, box: PixelBox, step: int, image: LargeImage) -> Prompt:
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
    is_large = isinstance(prompt.image, LargeImage)
    return example_on(prompt.image, RunLengths.of(prompt.mask), prompt.positive) if is_large else prompt


def example_on(image: KeyedImage, runs: RunLengths, positive: bool = True) -> ReferencePrompt:
    """What a mask on an image shows, as an example; on a large image as a window of it, so that no whole mask is decoded."""
    if not isinstance(image, LargeImage) or (around := runs.box) is None:
        return ReferencePrompt(image, runs.decode(), positive)
    (x0, y0, x1, y1), step = window_around((BoxPrompt(around),), image.size)
    (rows, columns), inside = runs.window()
    mask = np.zeros((y1 - y0, x1 - x0), np.bool_)
    mask[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0] = inside
    return ReferencePrompt(image.window((x0, y0, x1, y1), step), mask[::step, ::step], positive)


def _in_tiles(question: Question, image: LargeImage, answer: Answer, outstanding: Outstanding | None) -> Round:
    """What every tile holds, as one."""
    if isinstance(question, ForPrompts):
        prompts = tuple(_shown_small(each) if isinstance(each, ReferencePrompt) else each for each in question.prompts.prompts)
        question = replace(question, prompts=PromptSet(prompts), memory=None)
    pieces, closer = list[Piece](), list[Piece]()
    seen: set[PixelBox] = set()
    for tile, window in _read_ahead(image):
        if not is_flat(window.pixels):
            asked = replace(question, image=window)
            pieces += _pieces_of(tile, answer(asked))
            places = NOWHERE if outstanding is None else outstanding(asked)
            for box in closer_windows(tile.box, places, image.size):
                if box not in seen:
                    seen.add(box)
                    closer += _pieces_of(Tile.of_box(box), answer(replace(question, image=image.window(box))))
    asked_for = question.prompts if isinstance(question, ForPrompts) else PromptSet()
    return Round(asked_for, whole_things(things_of(settled(pieces, closer, image.size)), image.size))


def _pieces_of(tile: Tile, done: Round | MaskloomError) -> list[Piece]:
    """What was found in a tile."""
    return pieces_of(tile, _without_logits(_checked(done).masks))


def closer_windows(tile: PixelBox, places: FloatArray, size: Size) -> list[PixelBox]:
    """The windows around the first few places ``(N, 2)`` of a tile, in pixels of the image, that no window before holds."""
    chosen: list[PixelBox] = []
    for x, y in (places + tile[:2]).tolist():
        if len(chosen) < MOST_CLOSER and not any(box[0] <= x < box[2] and box[1] <= y < box[3] for box in chosen):
            left, top = (round((at - CLOSER / 2) / CLOSER_SNAP) * CLOSER_SNAP for at in (x, y))
            left, top = max(0, min(left, size.width - CLOSER)), max(0, min(top, size.height - CLOSER))
            chosen.append((left, top, min(left + CLOSER, size.width), min(top + CLOSER, size.height)))
    return chosen


def _read_ahead(image: LargeImage) -> Iterator[tuple[Tile, KeyedImage]]:
    """Every tile with its pixels, which are read while those before it are looked at; the log says how far that is."""
    tiles, told = tiles_of(image.size, TILE, TILE_OVERLAP), time.monotonic()
    with ThreadPoolExecutor(1, "tiles") as reader:
        coming = deque(reader.submit(image.window, tile.box) for tile in tiles[:AHEAD])
        for place, tile in enumerate(tiles):
            if place + AHEAD < len(tiles):
                coming.append(reader.submit(image.window, tiles[place + AHEAD].box))
            if time.monotonic() - told > TELL_S:
                told = time.monotonic()
                log.info("looked at %d of %d tiles of %d x %d pixels", place, len(tiles), image.size.width, image.size.height)
            yield tile, coming.popleft().result()


def is_flat(pixels: Image) -> bool:
    """Whether a tile ``(h, w, 3)`` has one colour; a few rows tell most that have not."""
    return all(_range_within(part) <= FLAT for part in (pixels[::FEW], pixels))


def _range_within(pixels: Image) -> int:
    """The largest difference of values in a channel; row by row first, which is quick."""
    rows = pixels.reshape(len(pixels), -1)
    high, low = (each.reshape(-1, 3) for each in (rows.max(axis=0), rows.min(axis=0)))
    return int((high.max(axis=0).astype(np.int16) - low.min(axis=0)).max())


def _checked(done: Round | MaskloomError) -> Round:
    if isinstance(done, MaskloomError):
        raise done
    return done
