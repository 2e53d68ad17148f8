"""Class and mask logits of many queries, as the panoptic map of the field.

After Cheng et al. 2022, "Mask2Former", with the thresholds of SEEM. The last class is "background".
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PanopticRule:
    """Which segments stay: those whose class is at least this sure, and that keep at least this share of their mask when every
    pixel goes to one segment. The defaults are those of SEEM's demo; its evaluation uses 0.8 and 0.8.
    """

    least_score: float = 0.4
    least_share: float = 0.8


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a panoptic map: its number there, its class, the query that it is from, and how sure the class is."""

    number: int
    category: int
    query: int
    score: float


def panoptic_map(
    class_logits: Tensor, mask_logits: Tensor, things: Collection[int], rule: PanopticRule
) -> tuple[Tensor, list[Segment]]:
    """A segment's number for every pixel ``(H, W)``, 0 for none, and the segments. Stuff of one class is one segment."""
    scores, categories = class_logits.softmax(dim=-1).max(dim=-1)
    kept = ((categories != class_logits.shape[1] - 1) & (scores > rule.least_score)).nonzero()[:, 0]
    numbers = torch.zeros(mask_logits.shape[1:], dtype=torch.int32, device=mask_logits.device)
    segments: list[Segment] = []
    if not len(kept):
        return numbers, segments
    inside = mask_logits[kept].sigmoid()
    winner = (scores[kept, None, None] * inside).argmax(dim=0)
    for row, query in enumerate(kept.tolist()):
        mask = (winner == row) & (inside[row] >= 0.5)
        if not _is_kept(mask, winner == row, inside[row] >= 0.5, rule):
            continue
        category = int(categories[query])
        known = next((s for s in segments if s.category == category and category not in things), None)
        if known is None:
            known = Segment(len(segments) + 1, category, query, float(scores[query]))
            segments.append(known)
        numbers[mask] = known.number
    return numbers, segments


def _is_kept(mask: Tensor, won: Tensor, own: Tensor, rule: PanopticRule) -> bool:
    return bool(mask.any()) and int(won.sum()) / int(own.sum()) >= rule.least_share


def mask_quality(mask_logits: Tensor) -> Tensor:
    """The mean probability inside each mask of ``(N, h, w)``, ``(N,)``; 0 for an empty one."""
    inside = (mask_logits > 0).float()
    total = (mask_logits.sigmoid() * inside).sum(dim=(1, 2))
    return total / (inside.sum(dim=(1, 2)) + 1e-6)
