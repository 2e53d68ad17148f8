"""What negative prompts rule out of what was found by words and references: they are only compared afterwards.

Negative exemplars of other images inside a decoder do harm; as a veto over what was found they cannot make a mask worse.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backend.engines.sam.references import FoundationQueries, Likeness, reference_map
from backend.values.features import ImageFeatures
from backend.values.masks import MaskSet
from prompts.geometry import BoolArray
from prompts.kinds import PromptSet
from prompts.sampler import cells_inside


def allowed_rows(features: ImageFeatures, rows: MaskSet, queries: FoundationQueries) -> NDArray[np.bool_]:
    """The rows ``(N,)`` that may stay: nearer to their phrase than to any negative one, and not like a negative reference."""
    allowed = np.ones(len(rows), np.bool_)
    if len(queries.negative_text):
        allowed &= _names_are_right(rows, queries)
    wanted = [_likeness_of(features, rows, likeness) for likeness in queries.likenesses if likeness.prompt.positive]
    least = np.maximum(np.max(wanted, axis=0), 0.5) if wanted else np.full(len(rows), 0.5)
    for likeness in queries.likenesses:
        if not likeness.prompt.positive:
            allowed &= _likeness_of(features, rows, likeness) <= least
    return allowed


def outside_negatives(found: MaskSet, prompts: PromptSet) -> MaskSet:
    """The masks that leave out every pixel of what was drawn as negative."""
    if not prompts.drawn or not len(found):
        return found
    forbidden = prompts.region(found.size, positive=False)
    return found[[row for row, mask in enumerate(found.masks) if not (mask & forbidden).any()]]


def _names_are_right(rows: MaskSet, queries: FoundationQueries) -> NDArray[np.bool_]:
    meanings = torch.from_numpy(rows.embeddings)
    worst = (meanings @ queries.negative_text.T).amax(dim=1)
    right = [
        phrase is None or bool(meanings[row] @ queries.text[queries.phrases.index(phrase)] > worst[row])
        for row, phrase in enumerate(rows.labels)
    ]
    return np.array(right, np.bool_)


def _likeness_of(features: ImageFeatures, rows: MaskSet, likeness: Likeness) -> NDArray[np.float64]:
    """How much of each row's mask is like a reference, ``(N,)`` in 0..1."""
    score = reference_map(features, likeness).sigmoid()
    return np.array([float(mean_inside(score, mask)) for mask in rows.masks])


def mean_inside(score: Tensor, mask: BoolArray) -> Tensor:
    """The mean of a map ``(h, w)`` over the cells that lie mostly inside a mask ``(H, W)``."""
    inside = cells_inside(mask, (score.shape[0], score.shape[1]))
    return score[torch.from_numpy(inside)].mean()
