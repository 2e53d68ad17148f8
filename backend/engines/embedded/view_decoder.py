"""The mask decoder: one view of an image and the evidence for a prompt, to one mask and how good it is.

A small U-Net (Ronneberger et al. 2015) that halves the view once before it begins and shuffles pixels at its end.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backend.engines.embedded import evidence
from backend.engines.embedded.layers import Conv, Residual, Surroundings, stage

WIDTHS = (24, 48, 80, 128)


class ViewDecoder(nn.Module):
    """Views ``(N, 3, 96, 96)`` in 0..1, prompt maps ``(N, 6, 48, 48)`` and joint-space vectors ``(N, D, 24, 24)`` or None,
    to logits ``(N, 96, 96)`` and the logit ``(N,)`` of the IoU that the mask will have with the object.
    """

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d = WIDTHS
        self.stem = Conv(3, 16, 2)
        self.halved = nn.Sequential(Conv(16 + evidence.CHANNELS, a), Residual(a))
        self.quarter, self.eighth = stage(a, b, 2), stage(b, c, 2)
        self.coarse = nn.Sequential(stage(c, d, 1), Surroundings(d), Residual(d))
        self.down = nn.ModuleList([nn.Conv2d(d, c, 1), nn.Conv2d(c, b, 1), nn.Conv2d(b, a, 1)])
        self.join = nn.ModuleList([Residual(c), Residual(b), Residual(a)])
        self.mask = nn.Sequential(Conv(a, a), nn.Conv2d(a, 4, 1), nn.PixelShuffle(2))
        self.quality = nn.Sequential(nn.Linear(d + 2 * a + 4, 64), nn.ReLU(inplace=True), nn.Linear(64, 1))

    def forward(self, image: Tensor, maps: Tensor, grid: Tensor | None) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            seen = evidence.gather(image, maps, grid)
        half = self.halved(torch.cat([self.stem(image * 4 - 2), seen], dim=1))
        quarter = self.quarter(half)
        eighth = self.eighth(quarter)
        coarse = self.coarse(eighth)
        x = coarse
        for down, join, skip in zip(self.down, self.join, (eighth, quarter, half), strict=True):
            x = join(skip + nn.functional.interpolate(down(x), size=skip.shape[2:], mode="bilinear"))
        logits = self.mask(x)[:, 0]
        return logits, self.quality(_summary(logits.detach(), coarse, x))[:, 0]


def _summary(logits: Tensor, coarse: Tensor, fine: Tensor) -> Tensor:
    """What the quality is judged by ``(N, features)``: the view, what is inside the mask and outside, and how sure it is."""
    chance = torch.sigmoid(nn.functional.avg_pool2d(logits[:, None], 2))
    inside = (fine * chance).sum(dim=(2, 3)) / (chance.sum(dim=(2, 3)) + 1)
    outside = (fine * (1 - chance)).sum(dim=(2, 3)) / ((1 - chance).sum(dim=(2, 3)) + 1)
    area = chance.mean(dim=(2, 3))
    unsure = (chance * (1 - chance)).mean(dim=(2, 3))
    edge = torch.cat([chance[:, :, 0], chance[:, :, -1], chance[:, :, :, 0], chance[:, :, :, -1]], dim=2).mean(dim=2)
    return torch.cat([coarse.mean(dim=(2, 3)), inside, outside, area, unsure, unsure / (area + 0.01), edge], dim=1)
