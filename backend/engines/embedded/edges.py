"""The image-guided edge step: a mask's unsure rim is settled by the colours on either side, and follows the image's edges.

Colours inside and outside are told apart as in GrabCut (Rother et al. 2004), by histograms of colours instead of mixtures of
Gaussians, and a guided filter (He et al. 2013) stands in for its graph cut.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from backend.engines.embedded import prompt_features
from backend.engines.embedded.from_drawing import Drawing
from backend.engines.embedded.views import SIDE, Answer, Canvas, around, chance_of, look, put_back
from prompts.geometry import BoolArray
from prompts.kinds import Image

MARGIN = 1.3
SURE = 2.9
"""Logits beyond this, a chance of 0.95, are not put to the question."""
MARK = 8.0
"""The logit of places that were marked."""
BINS = 20
"""Bins of a colour histogram along each axis of Lab, from the least to the most that the window holds."""
COLOUR = 2.0
"""How much the colour of a place counts beside its logit."""
MOST_ODDS, RARE = 3.0, 1e-4
"""The most that a colour tells, as log odds, and the share of pixels below which it tells little."""
REACH, EVEN = 5, 3e-4
"""How far the guided filter sees, in pixels, and the variance of colours (0..1) that is no edge to it."""
AGREES = 0.5
"""The least IoU with the answer that was given: where colour says something else altogether, it is not heard."""
FITS = 0.8
"""The least IoU of the box around the outcome with the box that was drawn."""
MARKED = 0.6
FAR, STEEP = -8.0, 4.0
FEWEST = 10


def sharpen(answer: Answer, canvas: Canvas, drawing: Drawing) -> Answer:
    """An answer with its edge where colours change, or as it is where they do not tell; marks of the drawing hold."""
    found = answer.box()
    if found is None:
        return answer
    window = around(found, MARGIN)
    logits = np.asarray(look(answer.logits, window, SIDE, outside=FAR), np.float32)
    marks = drawing.maps(window)[[prompt_features.POSITIVE, prompt_features.NEGATIVE]] > MARKED
    settled = _settled(np.asarray(look(canvas.pixels, window, SIDE), np.uint8), logits, marks)
    if settled is None or _iou(settled, logits > 0) < AGREES:
        return answer
    soft = cv2.GaussianBlur(settled.astype(np.float32), (0, 0), 1.0) * 2 - 1
    sharp = Answer(put_back(np.asarray(soft * STEEP, np.float32), window, canvas.size, FAR), answer.quality)
    return sharp if _fits(sharp, drawing.prompts.boxes) else answer


def _fits(answer: Answer, boxes: NDArray[np.float64]) -> bool:
    """Whether the box around an answer is about the one that was drawn."""
    found = answer.box()
    if found is None or len(boxes) != 1:
        return found is not None
    low, high = np.maximum(boxes[0, :2], found[:2]), np.minimum(boxes[0, 2:], found[2:])
    both = float(np.prod((high - low).clip(min=0)))
    either = float(np.prod(boxes[0, 2:] - boxes[0, :2])) + (found[2] - found[0]) * (found[3] - found[1]) - both
    return both >= FITS * either


def _settled(image: Image, logits: NDArray[np.float32], marks: BoolArray) -> BoolArray | None:
    """The mask ``(S, S)`` that logits, colours and marks for and against ``(2, h, w)`` make; None where one side has too few
    pixels to tell its colours.
    """
    logits = logits.copy()
    wanted, refused = (cv2.resize(mark.astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST) > 0 for mark in marks)
    logits[wanted], logits[refused] = MARK, -MARK
    inside = int((logits > 0).sum())
    if min(inside, logits.size - inside) < FEWEST:
        return None
    unsure = np.abs(logits) < SURE
    logits[unsure] += COLOUR * _colour_odds(image, chance_of(logits))[unsure]
    settled = guided(chance_of(logits), np.asarray(image / np.float32(255), np.float32)) > 0.5
    return np.asarray((settled | wanted) & ~refused)


def _colour_odds(image: Image, chance: NDArray[np.float32]) -> NDArray[np.float32]:
    """The log odds ``(H, W)`` that a pixel of its colour is inside, where ``chance (H, W)`` says what is."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    least, most = lab.min(axis=(0, 1)), lab.max(axis=(0, 1))
    bins = ((lab - least) * ((BINS - 0.01) / (most - least + 1))).astype(np.intp)
    place = np.ravel_multi_index(tuple(np.moveaxis(bins, 2, 0)), (BINS,) * 3)
    within, beyond = (_histogram(place, weight) for weight in (chance, 1 - chance))
    odds = np.log((within + RARE) / (beyond + RARE)).clip(-MOST_ODDS, MOST_ODDS)
    return np.asarray(odds[place], np.float32)


def _histogram(place: NDArray[np.intp], weight: NDArray[np.float32]) -> NDArray[np.float64]:
    """The share of weight in every bin of colour ``(bins³,)``, each bin mixed with its neighbours."""
    counts = np.asarray(np.bincount(place.ravel(), weight.ravel(), BINS**3), np.float64).reshape((BINS,) * 3)
    for axis in range(3):
        wide = np.pad(counts, [(1, 1) if each == axis else (0, 0) for each in range(3)])
        counts = counts / 2 + (wide.take(range(BINS), axis) + wide.take(range(2, BINS + 2), axis)) / 4
    return counts.ravel() / max(float(counts.sum()), 1e-6)


def guided(soft: NDArray[np.float32], guide: NDArray[np.float32]) -> NDArray[np.float32]:
    """A map ``(H, W)`` that follows the edges of a colour image ``(H, W, 3)``: the guided filter (He et al. 2013, 3.5)."""
    colour, value = _mean(guide), _mean(soft)
    rows, columns = (0, 0, 0, 1, 1, 2), (0, 1, 2, 1, 2, 2)
    spread = _mean(guide[..., rows] * guide[..., columns]) - colour[..., rows] * colour[..., columns]
    matrix = spread[..., (0, 1, 2, 1, 3, 4, 2, 4, 5)].reshape(*soft.shape, 3, 3) + EVEN * np.eye(3, dtype=np.float32)
    along = _mean(guide * soft[..., None]) - colour * value[..., None]
    slope = solved(matrix, along)
    level = value - (slope * colour).sum(axis=2)
    return np.asarray((_mean(slope) * guide).sum(axis=2) + _mean(level), np.float32)


def solved(matrix: NDArray[np.float32], wanted: NDArray[np.float32]) -> NDArray[np.float32]:
    """What symmetric matrices ``(..., 3, 3)`` take to ``wanted (..., 3)``, by Cramer's rule, which is quicker than a solver."""
    first, second, third = np.moveaxis(matrix, -1, 0)
    minors = np.stack([np.cross(second, third), np.cross(third, first), np.cross(first, second)], axis=-2)
    size = (first * minors[..., 0, :]).sum(axis=-1, keepdims=True)
    return np.asarray((minors * wanted[..., None, :]).sum(axis=-1) / size, np.float32)


def _mean(array: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.blur(array, (2 * REACH + 1,) * 2), np.float32)


def _iou(a: BoolArray, b: BoolArray) -> float:
    return float((a & b).sum() / max(int((a | b).sum()), 1))
