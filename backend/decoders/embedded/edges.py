"""The image-guided edge step: a mask's unsure rim is settled by colour, with GrabCut (Rother et al. 2004)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from backend.decoders.embedded import evidence
from backend.decoders.embedded.answers import Answer, Canvas
from backend.decoders.embedded.drawn import Drawing
from backend.decoders.embedded.windows import around, look, put_back
from prompts.geometry import BoolArray
from prompts.kinds import Image

SIDE = 128
MARGIN = 1.3
SURE = 2.9
"""Logits beyond this, a chance of 0.95, are not put to the question."""
ITERATIONS = 1
AGREES = 0.5
"""The least IoU with the answer that was given: where colour says something else altogether, it is not heard."""
FITS = 0.8
"""The least IoU of the box around the outcome with the box that was drawn."""
MARKED = 0.6
FAR, STEEP = -8.0, 4.0
FEWEST = 10


def sharpen(answer: Answer, canvas: Canvas, drawing: Drawing) -> Answer:
    """A first answer with its edge where colours change, or as it is where they do not tell; marks of the drawing hold.

    An answer that follows another is left as it is: who corrects by clicks is not overruled by colours.
    """
    found = answer.box()
    if found is None or drawing.previous is not None:
        return answer
    window = around(found, MARGIN)
    logits = np.asarray(look(answer.logits, window, SIDE, outside=FAR), np.float32)
    marks = drawing.maps(window)[[evidence.POSITIVE, evidence.NEGATIVE]] > MARKED
    cut = _cut(np.asarray(look(canvas.pixels, window, SIDE), np.uint8), logits, marks)
    if cut is None or _iou(cut, logits > 0) < AGREES:
        return answer
    soft = cv2.GaussianBlur(cut.astype(np.float32), (0, 0), 1.0) * 2 - 1
    settled = Answer(put_back(np.asarray(soft * STEEP, np.float32), window, canvas.size, FAR), answer.quality)
    return settled if _fits(settled, drawing.prompts.boxes) else answer


def _fits(answer: Answer, boxes: NDArray[np.float64]) -> bool:
    """Whether the box around an answer is about the one that was drawn."""
    found = answer.box()
    if found is None or len(boxes) != 1:
        return found is not None
    low, high = np.maximum(boxes[0, :2], found[:2]), np.minimum(boxes[0, 2:], found[2:])
    both = float(np.prod((high - low).clip(min=0)))
    either = float(np.prod(boxes[0, 2:] - boxes[0, :2])) + (found[2] - found[0]) * (found[3] - found[1]) - both
    return both >= FITS * either


def _cut(image: Image, logits: NDArray[np.float32], marks: BoolArray) -> BoolArray | None:
    """GrabCut from what is sure, what is likely and what was marked for and against ``(2, h, w)``; None where one side has
    too few pixels to tell its colours.
    """
    labels = np.where(logits > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[logits > SURE], labels[logits < -SURE] = cv2.GC_FGD, cv2.GC_BGD
    for mark, label in zip(marks, (cv2.GC_FGD, cv2.GC_BGD), strict=True):
        labels[cv2.resize(mark.astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST) > 0] = label
    inside = labels % 2 == 1
    if min(int(inside.sum()), int((~inside).sum())) < FEWEST:
        return None
    cv2.setRNGSeed(0)
    colours = np.zeros((1, 65)), np.zeros((1, 65))
    no_rectangle = (0, 0, 1, 1)
    cv2.grabCut(np.ascontiguousarray(image), labels, no_rectangle, *colours, ITERATIONS, cv2.GC_INIT_WITH_MASK)
    cut: BoolArray = labels % 2 == 1
    return cut


def _iou(a: BoolArray, b: BoolArray) -> float:
    return float((a & b).sum() / max(int((a | b).sum()), 1))
