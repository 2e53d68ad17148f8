"""Simulated prompts: what a person would draw for an object, and where they would click next on a wrong answer."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from backend.engines.embedded.from_drawing import SCALES
from backend.engines.embedded.network import BOX, MAP_SIDE, MAPS, NEGATIVE, POSITIVE, PREVIOUS, ROUGH
from backend.engines.embedded.views import CLOSE_SIDE, SIDE, Window, around, box_map, click_map, look, near
from prompts.geometry import Size, mask_box
from train.data import Photo

Dice = np.random.Generator
Maps = NDArray[np.float32]
KINDS = ("click", "box", "rough", "scribble", "previous")
NEAR, FAR = 1.8, 2.4
"""The most that a window is as long as the object; an earlier answer may be a part of it."""
AT_THE_RIM = 1.5
"""Pixels of a view within which an object ends where its photo does."""
CHANCES = (0.34, 0.32, 0.06, 0.06, 0.22)


@dataclass(slots=True)
class View:
    """One training view: ``image (192, 192, 3)`` uint8, the object ``target`` and what is ``known (96, 96)`` bool, its
    prompt ``maps (6, 48, 48)``, the window, which share of the object's area lies inside the window, and the kind of its first
    prompt. ``source`` and ``name`` are the photo and the object's name, where there is one of them.
    """

    image: NDArray[np.uint8]
    target: NDArray[np.bool_]
    known: NDArray[np.bool_]
    maps: Maps
    window: Window
    share: float
    kind: str
    rounds: int = 1
    mirrored: bool = False
    source: Photo | None = None
    name: str | None = None


def make_view(image: NDArray[np.uint8], target: NDArray[np.bool_], void: NDArray[np.bool_], dice: Dice) -> View:
    """A view of an object with a first prompt of a random kind."""
    kind = str(dice.choice(KINDS, p=CHANCES))
    click = _inner_point(target, dice) if kind == "click" or (kind == "previous" and dice.random() < 0.5) else None
    farthest = FAR if kind == "previous" else NEAR
    window = _around_click(click, target, dice) if click and kind == "click" else _around_object(target, farthest, dice)
    seen = look(target.astype(np.uint8) * 255, window, outside=0) > 127
    known = look(void.astype(np.uint8) * 255, window, outside=255) < 128
    inside = target[slice(*_rows(window, target))].astype(np.bool_)[:, slice(*_columns(window, target))]
    share = float(inside.sum() / max(target.sum(), 1))
    if not seen.any():
        seen = np.zeros_like(seen)
        seen[SIDE // 2, SIDE // 2] = True
    maps = np.zeros((MAPS, MAP_SIDE, MAP_SIDE), np.float32)
    _draw(kind, maps, seen, window.to_view(np.array([(0, 0), target.shape[::-1]], np.float64)).ravel(), dice)
    if click:
        x, y = window.to_view(np.array([click]))[0].tolist()
        _click(maps, POSITIVE, (x, y))
    return View(np.asarray(look(image, window, CLOSE_SIDE), np.uint8), seen, known, maps, window, share, kind)


def _rows(window: Window, mask: NDArray[np.bool_]) -> tuple[int, int]:
    return max(window.y, 0), max(min(window.y + window.length, mask.shape[0]), 0)


def _columns(window: Window, mask: NDArray[np.bool_]) -> tuple[int, int]:
    return max(window.x, 0), max(min(window.x + window.length, mask.shape[1]), 0)


def _around_click(click: tuple[float, float], target: NDArray[np.bool_], dice: Dice) -> Window:
    """A window as a first click gets one: nothing says how large the object is; often the click is right in its middle."""
    length = max(target.shape) * float(dice.choice(SCALES)) * dice.uniform(0.85, 1.15)
    jitter = dice.uniform(-0.15, 0.15, 2) * length * (dice.random() < 0.5)
    return near((click[0] + jitter[0], click[1] + jitter[1]), max(32, round(length)), Size(*target.shape))


def _around_object(target: NDArray[np.bool_], farthest: float, dice: Dice) -> Window:
    box = mask_box(target)
    assert box is not None
    extent = max(box[2] - box[0], box[3] - box[1])
    moved = np.array(box) + dice.normal(0, 0.04 * extent, 4)
    low, high = np.minimum(moved[:2], moved[2:]), np.maximum(moved[:2], moved[2:])
    return around((low[0], low[1], high[0], high[1]), float(dice.uniform(1.15, farthest)))


def _draw(kind: str, maps: Maps, target: NDArray[np.bool_], rim: NDArray[np.float64], dice: Dice) -> None:
    """Whatever covers an area, drawn for an object of the view, on a photo that ends at ``rim (x0, y0, x1, y1)``."""
    if kind == "box":
        maps[BOX] = box_map(_jittered_box(target, rim, dice))
    elif kind == "rough":
        maps[ROUGH] = shrink(distort(target, dice).astype(np.float32))
    elif kind == "scribble":
        maps[POSITIVE] = np.maximum(maps[POSITIVE], _stroke(target, dice))
        if dice.random() < 0.4 and not target.all():
            maps[NEGATIVE] = _stroke(~target, dice)
    elif kind == "previous":
        soft = cv2.GaussianBlur(distort(target, dice).astype(np.float32), (0, 0), dice.uniform(0.5, 4))
        maps[PREVIOUS] = shrink(soft)


def _jittered_box(target: NDArray[np.bool_], rim: NDArray[np.float64], dice: Dice) -> NDArray[np.float64]:
    """About the box around an object, within the photo: what a box leaves free along the rim is none of what it means."""
    found = mask_box(target)
    assert found is not None
    box = np.array(found, np.float64)
    moved = box + dice.normal(0, 0.03, 4) * (np.array([*(box[2:] - box[:2])] * 2) * (np.abs(box - rim) > AT_THE_RIM))
    return np.concatenate([np.maximum(moved[:2], rim[:2]), np.minimum(moved[2:], rim[2:])])


def _inner_point(target: NDArray[np.bool_], dice: Dice) -> tuple[float, float]:
    """A point inside: half of the time near the middle of the object's widest place, else anywhere."""
    padded = np.pad(target.astype(np.uint8), 1)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    deep = depth >= (0.7 if dice.random() < 0.5 else 0.15) * depth.max()
    rows, columns = np.nonzero(deep)
    pick = dice.integers(len(rows))
    return float(columns[pick]) + 0.5, float(rows[pick]) + 0.5


def _click(maps: Maps, channel: int, xy: tuple[float, float]) -> None:
    maps[channel] = np.maximum(maps[channel], click_map(np.array([xy])))


def _stroke(region: NDArray[np.bool_], dice: Dice) -> Maps:
    """A wavy line between points of a region, kept inside it."""
    canvas = np.zeros(region.shape, np.uint8)
    points = np.array([_inner_point(region, dice) for _ in range(dice.integers(2, 5))])
    cv2.polylines(canvas, [np.round(points).astype(np.int32)], False, 1, int(dice.integers(2, 7)))
    return shrink((canvas.astype(np.bool_) & region).astype(np.float32))


def distort(target: NDArray[np.bool_], dice: Dice) -> NDArray[np.bool_]:
    """A mask that is roughly right: moved, scaled, grown or shrunk, its outline bent, sometimes with a piece cut off."""
    side = len(target)
    bend = cv2.resize(dice.normal(0, dice.uniform(0, 0.05) * side, (4, 4, 2)).astype(np.float32), (side, side))
    down, across = np.mgrid[0:side, 0:side].astype(np.float32)
    zoom, move = dice.uniform(0.88, 1.12), dice.normal(0, 0.03 * side, 2)
    x = (across - side / 2) * zoom + side / 2 + move[0] + bend[..., 0]
    y = (down - side / 2) * zoom + side / 2 + move[1] + bend[..., 1]
    bent = cv2.remap(target.astype(np.uint8), x.astype(np.float32), y.astype(np.float32), cv2.INTER_NEAREST)
    kernel = np.ones((int(dice.integers(1, 8)),) * 2, np.uint8)
    bent = cv2.dilate(bent, kernel) if dice.random() < 0.5 else cv2.erode(bent, kernel)
    if dice.random() < 0.3:
        x0, y0 = dice.integers(0, side, 2)
        bent[y0 : y0 + side // 3, x0 : x0 + side // 3] = int(dice.random() < 0.3)
    return bent.astype(np.bool_) if bent.any() else target


def shrink(mask: Maps) -> Maps:
    """A map ``(96, 96)`` at the resolution of prompt maps."""
    return np.asarray(cv2.resize(mask, (MAP_SIDE,) * 2, interpolation=cv2.INTER_AREA), np.float32)


def correct(view: View, chance: Maps, dice: Dice) -> None:
    """Add the next click to a view, in its largest error, and hand it the answer ``chance (96, 96)`` as the previous one."""
    wrong = (chance > 0.5) != view.target
    wrong &= view.known
    view.rounds += 1
    view.maps[PREVIOUS] = shrink(chance)
    point = largest_error(wrong)
    if point is None:
        return
    moved = (point[0] + dice.normal(0, 1.0), point[1] + dice.normal(0, 1.0))
    channel = POSITIVE if view.target[int(point[1]), int(point[0])] else NEGATIVE
    _click(view.maps, channel, (float(np.clip(moved[0], 0, SIDE)), float(np.clip(moved[1], 0, SIDE))))


def largest_error(wrong: NDArray[np.bool_]) -> tuple[float, float] | None:
    """The deepest point ``(x, y)`` of the largest connected error ``(H, W)``; None where nothing is wrong."""
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(wrong.astype(np.uint8), connectivity=4)
    if count < 2:
        return None
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    depth = cv2.distanceTransform(np.pad((pieces == largest).astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(column) + 0.5, float(row) + 0.5
