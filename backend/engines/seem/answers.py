"""Queries as answers: those that are sure enough, each instance once, as masks of the image's own size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from backend.engines.seem.frame import Frame
from backend.engines.seem.maps import Segment
from backend.values.masks import MaskSet


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What counts as found: the least score of a mask that a phrase named, of one that looks like a reference, and the IoU
    from which two masks are one instance.
    """

    text: float = 0.4
    reference: float = 0.5
    same_instance: float = 0.7


@dataclass(frozen=True, slots=True)
class Candidates:
    """Q queries that may answer: ``logits (Q, h, w)`` at stride 4, ``embedding (Q, D)``, ``scores (Q,)`` in 0..1."""

    logits: Tensor
    embedding: Tensor
    scores: Tensor

    @classmethod
    def concatenate(cls, parts: Sequence[Candidates]) -> Candidates:
        """All candidates of all parts, in order."""
        columns = zip(*((part.logits, part.embedding, part.scores) for part in parts), strict=True)
        return cls(*(torch.cat(column) for column in columns))

    def rows(self, chosen: Tensor) -> Candidates:
        """Some of them, by indices or a bool tensor."""
        return Candidates(self.logits[chosen], self.embedding[chosen], self.scores[chosen])

    def instances(self, least: float, same: float) -> Candidates:
        """Those of at least this score, best first; of masks with an IoU above ``same`` only the best."""
        sure = self.rows(self.scores >= least)
        ordered = sure.rows(sure.scores.argsort(descending=True, stable=True))
        iou = _overlap(ordered.logits > 0)
        kept: list[int] = []
        for row in range(len(iou)):
            if not kept or float(iou[row, kept].max()) <= same:
                kept.append(row)
        return ordered.rows(torch.tensor(kept, dtype=torch.long, device=iou.device))


def to_mask_set(frame: Frame, found: Candidates, label: str | None) -> MaskSet:
    """The answers at the image's size, one at a time to bound the memory; a mask without a pixel is no answer."""
    masks = [frame.enlarge(found.logits[row : row + 1])[0].cpu().numpy() > 0 for row in range(len(found.scores))]
    return _mask_set(frame, found, masks, label)


def segments_to_mask_set(frame: Frame, found: Candidates, numbers: Tensor, segments: Sequence[Segment]) -> MaskSet:
    """The segments of a panoptic map ``(h, w)`` of the content, best first; ``found`` are all queries that it was made of."""
    best_first = sorted(segments, key=lambda segment: -segment.score)
    chosen = found.rows(torch.tensor([segment.query for segment in best_first], dtype=torch.long, device=numbers.device))
    masks = [frame.spread(numbers == segment.number) for segment in best_first]
    return _mask_set(frame, chosen, masks, None)


def _mask_set(frame: Frame, found: Candidates, masks: Sequence[np.ndarray], label: str | None) -> MaskSet:
    kept = [row for row, mask in enumerate(masks) if mask.any()]
    if not kept:
        return MaskSet.empty(frame.size)
    return MaskSet(
        masks=np.stack([masks[row] for row in kept]),
        scores=found.scores[kept].float().clamp(0, 1).cpu().numpy(),
        labels=(label,) * len(kept),
        low_res_logits=found.logits[kept].float().cpu().numpy().astype(np.float16),
        embeddings=functional.normalize(found.embedding[kept].float(), dim=-1).cpu().numpy(),
    )


def _overlap(masks: Tensor) -> Tensor:
    """The IoU ``(N, N)`` of masks ``(N, h, w)``."""
    flat = masks.flatten(1).float()
    both = flat @ flat.T
    area = both.diagonal()
    return both / (area[:, None] + area[None, :] - both).clamp(min=1)
