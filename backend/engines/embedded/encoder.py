"""The image encoder: a photo as a map of joint-space vectors and a map of features for the mask decoder.

A residual network (He et al. 2016) with a feature pyramid on top (Lin et al. 2017), read out at one eighth of its input.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from backend.engines.embedded.layers import Conv, Residual, Surroundings, stage

STRIDE = 8
WIDTHS = (24, 32, 64, 128, 192)
PYRAMID = 96
DIM = 128


class ImageEncoder(nn.Module):
    """RGB ``(N, 3, H, W)`` in 0..1, sides divisible by 32, to features ``(N, 96, H/8, W/8)``; see ``embed`` for the grid."""

    def __init__(self) -> None:
        super().__init__()
        w = WIDTHS
        self.stem = nn.Sequential(Conv(3, w[0], 2), stage(w[0], w[1], 1))
        self.eighth = stage(w[1], w[2], 2)
        self.sixteenth = stage(w[2], w[3], 3)
        self.coarse = nn.Sequential(stage(w[3], w[4], 1), Surroundings(w[4]), Residual(w[4]))
        self.lateral = nn.ModuleList(nn.Conv2d(width, PYRAMID, 1) for width in w[2:])
        self.smooth = nn.Sequential(Conv(PYRAMID, PYRAMID), Residual(PYRAMID))
        self.head = nn.Conv2d(PYRAMID, DIM, 1)
        self.text_scale = nn.Parameter(torch.tensor(math.log(16.0)))
        self.text_bias = nn.Parameter(torch.tensor(-6.0))

    def forward(self, image: Tensor) -> Tensor:
        eighth = self.eighth(self.stem(image * 4 - 2))
        sixteenth = self.sixteenth(eighth)
        levels = [lateral(x) for lateral, x in zip(self.lateral, (eighth, sixteenth, self.coarse(sixteenth)), strict=True)]
        merged = levels[2]
        for finer in (levels[1], levels[0]):
            merged = finer + nn.functional.interpolate(merged, size=finer.shape[2:], mode="bilinear")
        smooth: Tensor = self.smooth(merged)
        return smooth

    def embed(self, features: Tensor) -> Tensor:
        """Unit vectors of the joint space ``(N, 128, h, w)`` at every place of the features."""
        return nn.functional.normalize(self.head(features), dim=1)

    def text_logits(self, grid: Tensor, text: Tensor) -> Tensor:
        """How much every place of ``grid (N, D, h, w)`` looks like each of ``text (N, K, D)``: logits ``(N, K, h, w)``."""
        similarity = torch.einsum("ndhw,nkd->nkhw", grid, text)
        return similarity * self.text_scale.exp() + self.text_bias
