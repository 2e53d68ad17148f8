"""The visual sampler: any region of an image as a few visual tokens of the joint space.

After SEEM (Zou et al. 2023, "Segment Everything Everywhere All at Once", section 3.1): a region is represented by up to
512 points inside it, whose features are read from the image's joint-space grid. Which points is a seeded choice.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from prompts.geometry import BoolArray, FloatArray, Size

MAX_POINTS = 512


class FeatureMap(Protocol):
    """What the joint space needs of an image's features: unit vectors of the joint space, read at places."""

    @property
    def size(self) -> Size: ...

    def sample(self, points: FloatArray) -> Tensor:
        """The features ``(N, D)`` at ``points (N, 2)`` in pixels."""
        ...

    def pool(self, mask: BoolArray) -> Tensor:
        """The mean feature ``(D,)`` of a region ``(H, W)``."""
        ...


def sample_points(mask: BoolArray, most: int = MAX_POINTS, seed: int = 0) -> FloatArray:
    """At most ``most`` pixel centres ``(N, 2)`` inside a mask, spread by a seeded shuffle; none for an empty mask."""
    inside = np.flatnonzero(mask)
    if len(inside) > most:
        inside = np.sort(np.random.default_rng(seed).choice(inside, most, replace=False))
    rows, columns = np.divmod(inside, mask.shape[1])
    return np.stack([columns, rows], axis=1) + 0.5


def visual_token(features: FeatureMap, mask: BoolArray) -> Tensor:
    """One unit vector ``(1, D)`` for a region, the mean of its sampled points; no rows ``(0, D)`` for an empty one."""
    tokens = features.sample(sample_points(mask))
    if not len(tokens):
        return tokens
    return torch.nn.functional.normalize(tokens.mean(dim=0, keepdim=True), dim=-1)
