"""What an image holds when nothing was asked for: places that look alike and hang together, grown to masks of whole things."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backend.engines.embedded.from_text import FAINT, grow
from backend.engines.embedded.network import ViewDecoder
from backend.engines.embedded.views import Answer, Canvas
from backend.values.masks import Masks, overlaps

ALIKE = (0.5, 0.65, 0.8)
"""The cosines from which on places are alike: things, and parts of them that look different."""
MOST_SEEDS = 20
"""How many proposals are made for each of them."""
LEAST_SHARE, MOST_SHARE = 0.002, 0.9
REPEATED = 0.7
LEAST_QUALITY = 0.5
SURE = 4.0


def proposals(grid: Tensor) -> list[NDArray[np.float32]]:
    """Connected places of a grid ``(D, h, w)`` of unit vectors that are alike, as logits ``(h, w)``; none of them twice."""
    found: list[NDArray[np.bool_]] = []
    for alike in ALIKE:
        for piece in _pieces(grid, alike):
            if all((piece & other).sum() < REPEATED * (piece | other).sum() for other in found):
                found.append(piece)
    return [np.where(piece, SURE, FAINT).astype(np.float32) for piece in found]


def _pieces(grid: Tensor, alike: float) -> list[NDArray[np.bool_]]:
    """The image cut up from seeds, the evenest places first: each takes the places around it that are like it."""
    height, width = grid.shape[1:]
    vectors = grid.flatten(1).T
    free = np.ones((height, width), np.bool_)
    even = _evenness(grid)
    found = []
    for _ in range(MOST_SEEDS):
        if free.mean() < LEAST_SHARE:
            break
        seed = int(np.where(free, even, -np.inf).argmax())
        near = (vectors @ vectors[seed]).reshape(height, width).numpy() > alike
        _, pieces = cv2.connectedComponents((near & free).astype(np.uint8), connectivity=4)
        piece = pieces == pieces.ravel()[seed]
        free &= ~piece
        free.ravel()[seed] = False
        if LEAST_SHARE <= piece.mean() <= MOST_SHARE:
            found.append(piece)
    return found


def _evenness(grid: Tensor) -> NDArray[np.float32]:
    """How much every place ``(h, w)`` looks like those around it."""
    around = torch.nn.functional.avg_pool2d(grid[None], 5, 1, 2, count_include_pad=False)[0]
    return np.asarray((grid * around).sum(dim=0).numpy(), np.float32)


def find_everything(decoder: ViewDecoder, canvas: Canvas) -> list[Answer]:
    """The things of an image, best first, none of them twice."""
    seeds = proposals(canvas.features.grid.float().cpu())
    answers = [
        answer for answer in grow(decoder, canvas, seeds) if answer.quality >= LEAST_QUALITY and (answer.logits > 0).any()
    ]
    answers.sort(key=lambda answer: -answer.quality)
    if len(answers) < 2:
        return answers
    iou, _ = overlaps(Masks.of_stack(np.stack([answer.logits[::4, ::4] > 0 for answer in answers])))
    kept: list[int] = []
    for k in range(len(answers)):
        if all(iou[k, j] < REPEATED for j in kept):
            kept.append(k)
    return [answers[k] for k in kept]
