"""Labels that accepted regions taught to masks: which places look more like a label's examples than like anything else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prompts.examples import LabelMemory, near


def margins(grid: Tensor, memories: Sequence[LabelMemory]) -> Tensor:
    """How much more the places of ``grid (D, h, w)`` look like the inside of each label's examples than like their outside and
    like any other label: differences of cosines ``(L, h, w)``.
    """
    flat = grid.flatten(1).T.float()
    inside = torch.stack([near(flat, memory.shown.inside) for memory in memories])
    outside = torch.stack([near(flat, memory.shown.outside) for memory in memories])
    against = torch.maximum(outside, _rivals(inside))
    return (inside - against).reshape(len(memories), *grid.shape[1:])


def _rivals(alike: Tensor) -> Tensor:
    """For each row of ``alike (L, N)`` the largest of the other rows; -1 for a single row."""
    if len(alike) < 2:
        return torch.full_like(alike, -1.0)
    best = alike.topk(2, dim=0).values
    return torch.where(alike == best[0], best[1], best[0])


def meanings(memories: Sequence[LabelMemory]) -> Tensor:
    """What the examples of each label show on average, unit vectors ``(L, D)``."""
    means = torch.stack([memory.shown.inside.float().mean(dim=0) for memory in memories])
    return torch.nn.functional.normalize(means, dim=1)
