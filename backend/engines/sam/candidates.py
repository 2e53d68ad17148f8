"""Which of a network's candidates answers, and how good it is without regard to what was said."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from backend.engines.sam.networks import MaskCandidates

STABILITY_OFFSET = 1.0
IOU_WEIGHT, AGREEMENT_WEIGHT = 0.6, 0.4


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One mask: its logits ``(h, w)``; its quality in 0..1, the predicted IoU times the stability times the belief in it;
    and whether the network believes so at all, on which what was drawn does not depend.
    """

    logits: Tensor
    quality: float
    is_there: bool = True


def stability(logits: Tensor, offset: float = STABILITY_OFFSET) -> Tensor:
    """How little masks ``(..., h, w)`` change when the threshold moves: the IoU of two thresholds, as in SAM."""
    inner, outer = ((logits > threshold).flatten(-2).sum(dim=-1) for threshold in (offset, -offset))
    return inner / outer.clamp(min=1)


def best_candidate(found: MaskCandidates, score: Tensor | None = None) -> Candidate:
    """The best of one object's candidates, by the predicted IoU and, where a score map ``(h, w)`` in the network's frame is
    given, by how well it agrees with the mask.
    """
    logits, predicted = found.logits[0], found.iou_predictions[0].clamp(0, 1)
    worth = predicted
    if score is not None:
        worth = IOU_WEIGHT * predicted + AGREEMENT_WEIGHT * agreement(logits, score)
    return all_candidates(found)[int(worth.argmax())]


def all_candidates(found: MaskCandidates) -> list[Candidate]:
    """One object's candidates, in the network's order."""
    logits = found.logits[0]
    presence = found.object_logits[0].sigmoid()
    quality = (found.iou_predictions[0].clamp(0, 1) * stability(logits) * presence).tolist()
    is_there = bool(found.object_logits[0] >= 0)
    return [Candidate(each, its, is_there) for each, its in zip(logits, quality, strict=True)]


def agreement(logits: Tensor, score: Tensor) -> Tensor:
    """The soft IoU ``(K,)`` of masks ``(K, h, w)`` with a score map of logits ``(h, w)`` of the same frame."""
    wanted = functional.interpolate(score[None, None], logits.shape[-2:], mode="bilinear", align_corners=False)[0, 0]
    share, mask = wanted.sigmoid().to(logits), (logits > 0).float()
    both, either = (mask * share).flatten(1).sum(dim=1), torch.maximum(mask, share).flatten(1).sum(dim=1)
    return both / either.clamp(min=1e-6)
