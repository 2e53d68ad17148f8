"""Phrases and references to masks: which places look like them, which connected places are one thing, and what is absent."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backend.engines.embedded import prompt_features
from backend.engines.embedded.network import ViewDecoder
from backend.engines.embedded.views import Answer, Canvas, around, chance_of, decode_views, look
from backend.values.masks import Masks, overlaps
from prompts.space import PromptTokens

MARGIN = 1.3
MOST_INSTANCES = 24
LEAST_CELLS = 3
DUPLICATE = 0.6
SYNONYM = 0.6
"""The cosine from which on two phrases may mean the same thing."""
NEAREST = 20.0
"""How sharply a region's vector is drawn to the nearest known names."""
MEANT = 0.7
"""How much what a region means counts beside what it looks like."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Cosines to logits, and the presence below which a phrase gives no mask; chosen on held-out photos.

    ``presence_among`` is the same for phrases that are asked together, most of which are not there. ``marks_scale`` and
    ``marks_bias`` are what the logit of the expected IoU becomes where marks alone were drawn, from which nobody can tell how
    large the object is.
    """

    text_scale: float
    text_bias: float
    reference_scale: float
    reference_bias: float
    presence: float
    presence_among: float
    marks_scale: float = 1.0
    marks_bias: float = 0.0

    def of_marks(self, quality: float) -> float:
        """The IoU to expect in 0..1 of an answer to marks alone that was judged to have ``quality``."""
        likely = min(max(quality, 1e-6), 1 - 1e-6)
        logit = math.log(likely / (1 - likely))
        return 1 / (1 + math.exp(-self.marks_scale * logit - self.marks_bias))


def said_logits(tokens: PromptTokens, grid: Tensor, calibration: Calibration, names: Tensor) -> Tensor:
    """One logit map ``(M, h, w)`` for each phrase, then one for all references together if there are any.

    ``names (A, D)`` are the vectors that image regions were trained to have; see ``meaning_of``. What a negative phrase or
    reference claims is taken away from each.
    """
    maps = [_text(tokens.text, grid, calibration)]
    if len(tokens.reference):
        maps.append(reference_logits(tokens.reference, grid, calibration, names).amax(dim=0, keepdim=True))
    wanted = torch.cat(maps)
    shown = reference_logits(tokens.negative_reference, grid, calibration, names)
    unwanted = torch.cat([_text(tokens.negative_text, grid, calibration), shown])
    if len(unwanted) and len(wanted):
        rival = unwanted.amax(dim=0, keepdim=True)
        return torch.where(rival > wanted, -rival.abs() - 4, wanted)
    return wanted


def _text(vectors: Tensor, grid: Tensor, calibration: Calibration) -> Tensor:
    return torch.einsum("nd,dhw->nhw", vectors.to(grid), grid) * calibration.text_scale + calibration.text_bias


def reference_logits(vectors: Tensor, grid: Tensor, calibration: Calibration, names: Tensor) -> Tensor:
    """One logit map ``(N, h, w)`` for each region's vector ``(N, D)``."""
    alike = torch.einsum("nd,dhw->nhw", vectors.to(grid), grid) * calibration.reference_scale + calibration.reference_bias
    if not len(names):
        return alike
    return MEANT * _text(meaning_of(vectors, names), grid, calibration) + (1 - MEANT) * alike


def meaning_of(vectors: Tensor, names: Tensor) -> Tensor:
    """What regions ``(N, D)`` mean: unit vectors drawn to those of the nearest names ``(A, D)``, without what is peculiar to
    their photos. One step of a modern Hopfield network (Ramsauer et al. 2021).
    """
    near = torch.softmax(NEAREST * vectors @ names.to(vectors).T, dim=1)
    return torch.nn.functional.normalize(near @ names.to(vectors), dim=1)


def compete(logits: Tensor, vectors: Tensor) -> Tensor:
    """Maps ``(M, h, w)`` of phrases asked together, each lowered where another phrase claims the place.

    What lies there is one thing: logits become log odds against the strongest rival. Phrases of nearly one meaning, by
    their ``vectors (M, D)``, are no rivals.
    """
    if len(logits) < 2:
        return logits
    rivals = (vectors @ vectors.T < SYNONYM).to(logits.device)
    claims = torch.where(rivals[:, :, None, None], logits.clamp(min=0), 0).amax(dim=1)
    return logits - claims


def presence_of(logits: Tensor) -> float:
    """How sure a map ``(h, w)`` is that its phrase is there at all: the mean chance of its strongest half per cent."""
    strongest = max(4, logits.numel() // 200)
    return float(torch.sigmoid(logits.flatten()).topk(min(strongest, logits.numel())).values.mean())


def find_all(decoder: ViewDecoder, canvas: Canvas, logits: Tensor, least_presence: float) -> list[Answer]:
    """Every instance of one phrase or reference that is at least so present, best first."""
    pieces = [(seed, presence) for seed, presence in instances(logits) if presence >= least_presence]
    if not pieces:
        return []
    windows, maps = [], []
    for seed, _ in pieces:
        box, chance = _on_canvas(seed, canvas)
        windows.append(around(box, MARGIN, least=32))
        maps.append(np.zeros((prompt_features.MAPS, prompt_features.MAP_SIDE, prompt_features.MAP_SIDE), np.float32))
        maps[-1][prompt_features.PREVIOUS] = look(chance, windows[-1], prompt_features.MAP_SIDE, outside=0)
    answers = decode_views(decoder, canvas, windows, np.stack(maps))
    scored = [
        Answer(answer.logits, answer.quality * presence)
        for answer, (_, presence) in zip(answers, pieces, strict=True)
        if (answer.logits > 0).any()
    ]
    return _distinct(sorted(scored, key=lambda answer: -answer.quality))


def instances(logits: Tensor) -> list[tuple[NDArray[np.float32], float]]:
    """The connected places of a map ``(h, w)`` that are claimed, largest first: a map of each alone, and its presence."""
    soft = np.asarray(logits.float().cpu().numpy(), np.float32)
    return [(piece, presence_of(torch.from_numpy(piece))) for piece in _pieces(soft)]


def _pieces(logits: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The connected places above one half as maps of their own ``(h, w)``, largest first."""
    count, pieces, stats, _ = cv2.connectedComponentsWithStats((logits > 0).astype(np.uint8), connectivity=4)
    order = 1 + np.argsort(stats[1:, cv2.CC_STAT_AREA])[::-1]
    large = [k for k in order[:MOST_INSTANCES].tolist() if stats[k, cv2.CC_STAT_AREA] >= LEAST_CELLS]
    return [_alone(logits, pieces == k) for k in large] if count > 1 else []


def _alone(logits: NDArray[np.float32], piece: NDArray[np.bool_]) -> NDArray[np.float32]:
    vicinity = cv2.dilate(piece.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return np.where(vicinity & ((logits <= 0) | piece), logits, -8).astype(np.float32)


def _on_canvas(seed: NDArray[np.float32], canvas: Canvas) -> tuple[tuple[float, float, float, float], NDArray[np.float32]]:
    """The box of a piece in canvas pixels, and its chance ``(H, W)``."""
    size = canvas.size
    rows, columns = np.nonzero(seed > 0)
    step = (size.width / seed.shape[1], size.height / seed.shape[0])
    low, high = (float(columns.min()), float(rows.min())), (float(columns.max()) + 1, float(rows.max()) + 1)
    box = (low[0] * step[0], low[1] * step[1], high[0] * step[0], high[1] * step[1])
    grown = cv2.resize(chance_of(seed), (size.width, size.height), interpolation=cv2.INTER_LINEAR)
    return box, np.asarray(grown, np.float32)


def _distinct(answers: list[Answer]) -> list[Answer]:
    """The answers without those that repeat a better one."""
    if len(answers) < 2:
        return answers
    small = np.stack([answer.logits[::4, ::4] > 0 for answer in answers])
    iou, inside = overlaps(Masks.of_stack(small))
    kept: list[int] = []
    for k in range(len(answers)):
        if all(iou[k, j] < DUPLICATE and inside[k, j] < 0.85 for j in kept):
            kept.append(k)
    return [answers[k] for k in kept]
